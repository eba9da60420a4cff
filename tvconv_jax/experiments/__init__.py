"""Sweeps over configs, and the paper's tables and figures."""
