"""What runs on the device: the benchmark, one file to copy."""
