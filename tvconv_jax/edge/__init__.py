"""The benchmark that runs on a device: one file to copy."""
