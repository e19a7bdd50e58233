"""What tests and benchmarks share: real processes to run, doubles of others, and ways to wait for them."""
