"""Sweeps over configs, and the tables and figures of the paper."""
