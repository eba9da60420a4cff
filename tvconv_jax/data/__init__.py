"""Faces from two sources, embedded and folder: TFDS builders without TensorFlow, and a Grain pipeline."""
