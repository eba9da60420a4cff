"""Fine-tuning of a truncated graph by distillation: it learns the exact graph's outputs."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tvconv_jax.data.normalization import normalize
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.interpreter import arrays_of, make_run, unit, with_arrays
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import track


def check_steps(steps: int, ranks: Sequence[str]) -> None:
    """Raise a ``UserError`` for steps of ``--fine-tune`` that do not fit the ranks."""
    if steps < 0:
        raise UserError(f"--fine-tune={steps} must be at least 0, the number of batches.")
    if steps and set(ranks) == {"exact"}:
        raise UserError(f"--fine-tune={steps} is for low-rank kernels, and exact keeps all; give --rank=1, 2, ...")


def fine_tune(
    graph: Graph,
    exact: Callable[[jax.Array], jax.Array],
    batches: Iterator[np.ndarray],
    *,
    steps: int,
    learning_rate: float = 1e-3,
) -> Graph:
    """Return the graph with trained arrays: least squares of outputs of unit length, Adam, cosine learning rate.

    Args:
        graph: The truncated graph; all of its arrays are trained.
        exact: The exact model, normalized images ``[n, s, s, 3]`` to outputs.
        batches: ``uint8 [n, s, s, 3]``.
        steps: Number of batches.
        learning_rate: Initial learning rate.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, for the idea.
    """
    run, optimizer = make_run(graph), optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(arrays: list, images: jax.Array) -> jax.Array:
        found, expected = (unit(outputs) for outputs in (run(arrays, images), exact(images)))
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
