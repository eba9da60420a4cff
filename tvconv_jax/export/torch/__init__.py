"""The exported graph as a PyTorch model."""
