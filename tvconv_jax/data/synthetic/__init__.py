"""Drawn data sets: faces and fundus images for tests, examples and the embedded set."""
