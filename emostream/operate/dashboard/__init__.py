"""The numbers of the operator's page: what every process reports now, and the counts of the last minutes."""
