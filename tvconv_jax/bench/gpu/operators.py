"""Forward pass and both gradients of an operator: shares of a copy of the same bytes, checked against float64."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tvconv_jax.bench.gpu.item import Item, Sizes
from tvconv_jax.bench.gpu.worker import Measure, describe
from tvconv_jax.bench.ours import OPERATORS
from tvconv_jax.bench.timing import copy_bandwidth, interleaved
from tvconv_jax.ops.tv_conv import output_grid

PASSES = ("forward", "input_gradient", "weight_gradient")
CHECKED = 4  # images that are computed in float64 too
# Largest relative error of an array (norms): sums of at most 4 * 96 * 96 products; results of bfloat16 have 8 bits.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
TAPS, SIZE = 9, 3


def prepare(item: Item, sizes: Sizes) -> Measure:
    """Compile the three passes; each one's figures, or its error, stand under its name."""
    start = time.perf_counter()
    programs = {name: _attempt(functools.partial(_compile, name, item)) for name in PASSES}
    draw = _draw(item)
    compiled = time.perf_counter() - start

    def measure() -> dict[str, Any]:
        arrays, check = draw(jax.random.key(0))
        bandwidth = _copy(sum(a.nbytes for a in arrays), item.settings["precision"], sizes.runs)
        figures: dict[str, Any] = {"copy_gb_per_s": round(bandwidth / 1e9, 1), "compile_s": round(compiled, 1)}
        for name, program in programs.items():
            figures[name] = (
                program
                if isinstance(program, dict)
                else _attempt(functools.partial(_measure, name, program, item, arrays, check, bandwidth, sizes.runs))
            )
        return figures

    return measure


def _attempt(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # one pass that fails must not end the others
        return {"error": describe(error)}


@functools.cache
def _copy(nbytes: int, precision: str, runs: int) -> float:
    """Return bytes/s of a copy that reads and writes as many bytes together."""
    return copy_bandwidth(runs, nbytes=nbytes // 2, dtype=precision)


def _shapes(item: Item) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of input, weights and cotangent."""
    batch, height, width, channels, strides = item.settings["shape"]
    grid = output_grid(height, width, strides)
    weights = (*grid, TAPS, channels) if item.settings["operator"] == "tvconv" else (TAPS, channels)
    return (batch, height, width, channels), weights, (batch, *grid, channels)


def _draw(item: Item) -> Any:
    """Compile a program that draws the arrays on the device, and those of the check.

    The check has the cotangent with zeros for all images but the first ones, and input and cotangent of these.
    """

    def draw(key: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        keys, dtype = jax.random.split(key, 3), jnp.dtype(item.settings["precision"])
        x, weights, g = (jax.random.normal(k, shape, dtype) for k, shape in zip(keys, _shapes(item), strict=True))
        first = (jnp.arange(len(x)) < CHECKED).reshape(-1, 1, 1, 1)
        return (x, weights, g), (jnp.where(first, g, jnp.zeros_like(g)), x[:CHECKED], g[:CHECKED])

    return jax.jit(draw).lower(jax.random.key(0)).compile()


def _compile(name: str, item: Item) -> Any:
    """Compile a pass of input, weights and cotangent; XLA leaves out what the others alone would need."""
    operator = functools.partial(OPERATORS[item.settings["operator"]], strides=item.settings["shape"][-1])
    passes = {
        "forward": lambda x, weights, _: operator(x, weights),
        "input_gradient": lambda x, weights, g: jax.vjp(lambda x: operator(x, weights), x)[1](g)[0],
        "weight_gradient": lambda x, weights, g: jax.vjp(lambda weights: operator(x, weights), weights)[1](g)[0],
    }
    shapes = [jax.ShapeDtypeStruct(shape, item.settings["precision"]) for shape in _shapes(item)]
    return jax.jit(passes[name]).lower(*shapes).compile()


def _measure(
    name: str, program: Any, item: Item, arrays: tuple, check: tuple, bandwidth: float, runs: int
) -> dict[str, Any]:
    error = _error(name, program, item, arrays, check)
    seconds = interleaved({name: (lambda: program(*arrays), jax.block_until_ready)}, runs)[name]
    share = sum(a.nbytes for a in arrays) / seconds / bandwidth  # each pass reads two of them and writes a third
    tolerance = TOLERANCE[item.settings["precision"]]
    wrong = {} if error <= tolerance else {"error": f"it differs from float64 by {error:.1e}, more than {tolerance:g}"}
    return {"us": round(1e6 * seconds, 1), "share_of_copy": round(share, 3), "float64_difference": error, **wrong}


def _error(name: str, program: Any, item: Item, arrays: tuple, check: tuple) -> float:
    """Compare the same program with float64 on the first images: the cotangents of all others are zero."""
    (x, weights, _), (cotangent, *few) = arrays, check
    found = program(x, weights, cotangent)
    found = np.asarray(found if name == "weight_gradient" else found[:CHECKED], np.float64)
    first_x, kernels, first_g = (np.asarray(array, np.float64) for array in (few[0], weights, few[1]))
    expected = reference(first_x, kernels, first_g, strides=item.settings["shape"][-1])[PASSES.index(name)]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def reference(
    x: np.ndarray, weights: np.ndarray, cotangent: np.ndarray, *, strides: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute output and gradients of input and weights in NumPy, tap by tap; arguments as of ``tv_conv``."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (strides * (size - 1) + 1 for size in cotangent.shape[1:3])
    y, grad_padded, grad_weights = np.zeros_like(cotangent), np.zeros_like(padded), np.zeros_like(weights)
    for tap in range(TAPS):
        i, j = divmod(tap, SIZE)
        view = np.s_[:, i : i + rows : strides, j : j + columns : strides]
        y += padded[view] * weights[..., tap, :]
        grad_padded[view] += cotangent * weights[..., tap, :]
        products = padded[view] * cotangent
        grad_weights[..., tap, :] = products.sum(0) if weights.ndim == 4 else products.sum((0, 1, 2))
    return y, grad_padded[:, 1:-1, 1:-1], grad_weights
