"""GET /metrics of every process, and the counts of the last minutes → the numbers of the operator's page."""
