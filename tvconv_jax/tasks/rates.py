"""Learning rates by AdamW, chosen on own data; ``docs/evidence.md`` compares them with the best of a grid."""

# Operators with kernels of their own at every position: they learn at smaller rates.
PER_POSITION = ("tvconv", "tvconv_linear", "tvconv_lowrank", "tvconv_dynamic", "locally_connected")
MASKS = 3.2e-2  # of any operator


def of_classes(operator: str) -> float:
    """Return the rate of a classification run, and of faces by the quick recipe."""
    return 3.2e-3 if operator in PER_POSITION else 1e-2
