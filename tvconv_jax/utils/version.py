"""Versions of what computes, for results that should be rerun one day."""

import importlib.metadata
import platform


def versions(*more: str) -> dict[str, str]:
    """Python's, this package's and its main dependencies' versions, and those of more packages."""
    names = ("tvconv_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {"python": platform.python_version()}
    for name in (*names, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found
