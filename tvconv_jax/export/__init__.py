"""Trained models as artifacts for other runtimes: frozen, folded, checked against the JAX model."""
