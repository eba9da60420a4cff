"""The exported graph as a native engine: C++ compiled on the device, and its NumPy loader."""
