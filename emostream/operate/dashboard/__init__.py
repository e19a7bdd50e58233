"""The operator's page: what is slow now."""
