"""What every process counts, and its GET /metrics."""
