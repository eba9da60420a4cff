"""The exported graph as an ONNX file."""
