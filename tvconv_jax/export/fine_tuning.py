"""Brings a truncated graph back towards the exact one: a few steps in which it learns the exact one's answers."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvconv_jax.data.tools.progress import track
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run, with_arrays
from tvconv_jax.tasks.parts import normalize
from tvconv_jax.utils.errors import UserError


def check_steps(steps: int, ranks: Sequence[str]) -> None:
    """Raises a ``UserError`` for steps of ``--fine-tune`` that do not fit the ranks asked for."""
    if steps < 0:
        raise UserError(f"--fine-tune={steps} must be at least 0, the batches to learn from.")
    if steps and set(ranks) == {"exact"}:
        raise UserError(f"--fine-tune={steps} is for truncated kernels, and exact keeps all; name a rank of 1, 2, ...")


def fine_tune(
    graph: Graph,
    exact: Callable[[jax.Array], jax.Array],
    batches: Iterator[np.ndarray],
    *,
    steps: int,
    learning_rate: float = 1e-3,
) -> Graph:
    """Distils the exact model into the graph: least squares of unit-length answers, Adam, a cosine rate.

    Args:
        graph: The truncated graph; all of its arrays are trained.
        exact: Normalized images ``[n, s, s, 3]`` to answers.
        batches: ``uint8 [n, s, s, 3]``.
        steps: Batches to learn from.
        learning_rate: At the beginning.

    Returns:
        The graph with other arrays.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, for the idea.
    """
    run, optimizer = make_run(graph), optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(arrays: list, images: jax.Array) -> jax.Array:
        found, expected = (unit(answers) for answers in (run(arrays, images), exact(images)))
        return jnp.mean(jnp.sum(jnp.square(found - expected), axis=-1))

    @jax.jit
    def step(arrays: list, state: optax.OptState, images: jax.Array) -> tuple[list, optax.OptState]:
        grads = jax.grad(loss)(arrays, normalize(images))
        updates, state = optimizer.update(grads, state, arrays)
        return optax.apply_updates(arrays, updates), state

    arrays = arrays_of(graph)
    state = optimizer.init(arrays)
    for _ in track(range(steps), total=steps, text="Fine-tuning"):
        arrays, state = step(arrays, state, next(batches))
    return with_arrays(graph, arrays)


def unit(answers: jax.Array) -> jax.Array:
    """Answers to pictures as rows of unit length."""
    rows = answers.reshape(len(answers), -1)
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
