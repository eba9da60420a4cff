"""Initial variables of a model, their random numbers drawn together.

XLA compiles each draw of ``model.init`` by itself, which takes most of the time of a fresh start. Here a few loops over
all keys replace the draws in the jaxpr of ``init``. The numbers are the same except for rounding: Threefry counts
through what it gives a key, so a longer draw begins with a shorter one (``jax_threefry_partitionable``, JAX's default).
MobileNetV2 x0.1 with TVConv has its variables after 7 seconds, not after 16 (two cores of a Zen 3).
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Var
from jax.extend.core.primitives import jit_p, random_fold_in_p

from tvconv_jax.utils.sizes import Size, height_width


@functools.partial(jax.jit, static_argnums=(0, 2))
def fresh_variables(model: nn.Module, key: jax.Array, image_size: Size) -> Any:
    """Return ``model.init`` for RGB images of a size, compiled."""
    return drawn_together(functools.partial(model.init, train=False), key, jnp.zeros((1, *height_width(image_size), 3)))


def drawn_together(fun: Callable[..., Any], key: jax.Array, *args: Any) -> Any:
    """Return ``fun(key, *args)``, inside of ``jax.jit``.

    Draws of ``jax.random.normal`` and ``uniform`` with keys that ``fold_in`` makes of ``key``, as ``init`` of Flax
    does, are replaced; others stay as they are.
    """
    if not jax.config.jax_threefry_partitionable or str(jax.random.key_impl(key)) != "threefry2x32":
        return fun(key, *args)
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(key, *args)
    program = closed.jaxpr
    values = dict(zip(program.constvars, closed.consts, strict=True))
    values |= zip(program.invars, jax.tree.leaves((key, *args)), strict=True)
    values |= _drawn(key, program.eqns, program.invars[0])

    def read(atom: Var | Literal) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in _needed(program.eqns, program.outvars, values):
        results = eqn.primitive.bind(*map(read, eqn.invars), **eqn.params)
        values |= zip(eqn.outvars, results if eqn.primitive.multiple_results else [results], strict=True)
    return jax.tree.unflatten(jax.tree.structure(shapes), map(read, program.outvars))


# Functions of jax.random as jaxprs name them. Initializers that divide by the fan draw uniform numbers themselves
# since JAX 0.12, before that normal ones.
_SAMPLERS = {"_normal": jax.random.normal, "_uniform": jax.random.uniform}


def _drawn(key: jax.Array, equations: Sequence[JaxprEqn], root: Var) -> dict[Var, jax.Array]:
    """Return the draws of ``jax.random`` by the variables that they return.

    Numbers of one distribution and similar count, rounded up to the next power of four, are drawn in one loop.
    """
    folded, groups = {}, defaultdict(list)
    for eqn in equations:
        first, *others = eqn.invars or [None]
        if eqn.primitive is random_fold_in_p and first is root and isinstance(others[0], Literal):
            folded[eqn.outvars[0]] = others[0].val
        elif eqn.primitive is jit_p and eqn.params["name"] in _SAMPLERS and isinstance(first, Var) and first in folded:
            if all(isinstance(bound, Literal) for bound in others):
                var, bounds = eqn.outvars[0], [float(bound.val) for bound in others]
                size = 4 ** math.ceil(math.log(math.prod(var.aval.shape), 4))
                groups[_SAMPLERS[eqn.params["name"]], *bounds, size, var.aval.dtype].append((var, folded[first]))
    drawn = {}
    for (sample, *bounds, size, dtype), group in groups.items():
        arguments = (size,), dtype, *bounds

        def row(number: jax.Array, sample: Callable = sample, arguments: tuple = arguments) -> jax.Array:
            return sample(jax.random.fold_in(key, number), *arguments)

        rows = jax.lax.map(row, jnp.stack([number for _, number in group]))
        for (var, _), numbers in zip(group, rows, strict=True):
            drawn[var] = numbers[: math.prod(var.aval.shape)].reshape(var.aval.shape)
    return drawn


def _needed(equations: Sequence[JaxprEqn], outputs: Sequence[Any], known: Collection[Var]) -> list[JaxprEqn]:
    """Return the equations between known variables and outputs, without the forward pass of ``init``."""
    wanted, needed = {atom for atom in outputs if isinstance(atom, Var)}, []
    for eqn in reversed(equations):
        if any(var in wanted and var not in known for var in eqn.outvars):
            needed.append(eqn)
            wanted |= {atom for atom in eqn.invars if isinstance(atom, Var)}
    return needed[::-1]
