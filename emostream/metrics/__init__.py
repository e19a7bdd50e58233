"""What every process counts → GET /metrics."""
