"""The variables that a model starts from, their normal numbers drawn together.

``model.init`` draws every parameter by itself, and XLA compiles every draw by itself: most of what a fresh start waits
for. Here ``init`` is read as its jaxpr, and a few loops over all keys answer its draws. The numbers are the same but
for rounding: Threefry counts through what it gives a key, so a longer draw begins with a shorter one
(``jax_threefry_partitionable``, JAX's default). The variables of MobileNetV2 x0.1 with TVConv are there after 7
seconds, not after 16 (two cores of a Zen 3).
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Var
from jax.extend.core.primitives import jit_p, random_fold_in_p


@functools.partial(jax.jit, static_argnums=(0, 2))
def fresh_variables(model: nn.Module, key: jax.Array, image_size: int) -> Any:
    """``model.init`` for RGB pictures of ``image_size`` x ``image_size`` pixels, compiled."""
    return drawn_together(functools.partial(model.init, train=False), key, jnp.zeros((1, image_size, image_size, 3)))


def drawn_together(fun: Callable[..., Any], key: jax.Array, *args: Any) -> Any:
    """``fun(key, *args)``, inside of ``jax.jit``.

    Args:
        fun: Draws with ``jax.random.normal`` from keys that ``fold_in`` makes of ``key``, as ``init`` of Flax does;
            what it draws in another way stays as it is.
        key: A typed key.
        args: Arrays.
    """
    if not jax.config.jax_threefry_partitionable or str(jax.random.key_impl(key)) != "threefry2x32":
        return fun(key, *args)
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(key, *args)
    program = closed.jaxpr
    values = dict(zip(program.constvars, closed.consts, strict=True))
    values |= zip(program.invars, jax.tree.leaves((key, *args)), strict=True)
    values |= _draw(key, _numbers(program.eqns, program.invars[0]))

    def read(atom: Var | Literal) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in _needed(program.eqns, program.outvars, values):
        results = eqn.primitive.bind(*map(read, eqn.invars), **eqn.params)
        values |= zip(eqn.outvars, results if eqn.primitive.multiple_results else [results], strict=True)
    return jax.tree.unflatten(jax.tree.structure(shapes), map(read, program.outvars))


def _numbers(equations: Sequence[JaxprEqn], root: Var) -> dict[Var, Any]:
    """By what ``jax.random.normal`` returns: the number that was folded into the root for its key."""
    folded, numbers = {}, {}
    for eqn in equations:
        if eqn.primitive is random_fold_in_p and eqn.invars[0] is root and isinstance(eqn.invars[1], Literal):
            folded[eqn.outvars[0]] = eqn.invars[1].val
        elif eqn.primitive is jit_p and eqn.params["name"] == "_normal" and eqn.invars[0] in folded:
            numbers[eqn.outvars[0]] = folded[eqn.invars[0]]
    return numbers


def _draw(key: jax.Array, numbers: Mapping[Var, Any]) -> dict[Var, jax.Array]:
    """What ``jax.random.normal`` returns: those of similar size in one loop, as many as the next power of four."""
    groups: dict[tuple[int, Any], list[Var]] = defaultdict(list)
    for var in numbers:
        groups[4 ** math.ceil(math.log(math.prod(var.aval.shape), 4)), var.aval.dtype].append(var)
    drawn = {}
    for (size, dtype), group in groups.items():

        def normal(number: jax.Array, size: int = size, dtype: Any = dtype) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, number), (size,), dtype)

        rows = jax.lax.map(normal, jnp.stack([numbers[var] for var in group]))
        drawn |= {v: row[: math.prod(v.aval.shape)].reshape(v.aval.shape) for v, row in zip(group, rows, strict=True)}
    return drawn


def _needed(equations: Sequence[JaxprEqn], outputs: Sequence[Any], known: Collection[Var]) -> list[JaxprEqn]:
    """The equations that lead from what is known to the outputs: of ``init``, not what the model computes."""
    wanted, needed = {atom for atom in outputs if isinstance(atom, Var)}, []
    for eqn in reversed(equations):
        if any(var in wanted and var not in known for var in eqn.outvars):
            needed.append(eqn)
            wanted |= {atom for atom in eqn.invars if isinstance(atom, Var)}
    return needed[::-1]
