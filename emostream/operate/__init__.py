"""What stands behind ./start.sh."""
