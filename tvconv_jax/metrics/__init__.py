"""Measures of quality and of cost."""
