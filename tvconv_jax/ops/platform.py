"""One function for GPUs, another for all else: chosen when a program is lowered, so a CPU can compile for a GPU."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Options by which functions of arrays differ.
_OPTIONS = ("activation", "axes", "epsilon", "groups")


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let one form of a function be traced once for the layers of one shape; the program shows nothing of it."""
    static = [name for name in inspect.signature(function).parameters if name in _OPTIONS]
    return functools.wraps(function)(jax.jit(function, static_argnames=static, inline=True))


def on_gpu(function: Callable[..., Any], otherwise: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Return ``function(*arrays)`` on a GPU, elsewhere ``otherwise(*arrays)`` of the same shapes and dtypes."""
    return lax.platform_dependent(*arrays, cuda=function, rocm=function, default=otherwise)
