"""One process of several that train a model of a few numbers on the embedded faces, for test_distributed.py."""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from tvconv_jax.data import embedded
from tvconv_jax.data.pipeline import eval_batches, train_batches
from tvconv_jax.data.records import cache_dir
from tvconv_jax.errors import Interrupted
from tvconv_jax.tasks.run import normalise
from tvconv_jax.training import distributed, loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.logging import MetricsLog, NoLog, ProgressLine
from tvconv_jax.training.mesh import local_rows, make_mesh, put_batch
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import make_train_step


def train(workdir, *, total, stop_at=0):
    """Trains to ``total`` steps; at step ``stop_at`` the last process alone gets SIGTERM."""
    workdir.mkdir(exist_ok=True)
    mesh, optimizer = make_mesh(), sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.0)
    source, _, _ = embedded.load("smoke", cache_dir())
    state = create_state({"w": jnp.ones((24, 3))}, {}, optimizer, 0, mesh)
    forward = lambda params, images: jnp.einsum("nhwc,wc->n", normalise(images), params["w"]) / 100  # noqa: E731

    def loss(params, stats, batch, _):
        return jnp.mean(jnp.square(forward(params, batch["image"]) - batch["label"].astype(jnp.float32))), (stats, {})

    def evaluate(state):
        if int(state.step) == stop_at and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        outputs = []  # the sum is right only if every picture comes once
        for batch in eval_batches(source, batch_size=24, image_size=24, rows=local_rows(24, mesh)):
            found = distributed.to_host(embed(state.params, put_batch(batch["image"], mesh)))
            outputs += found[batch["mask"]].tolist()
        return {"score": float(sum(outputs)), "pictures": len(outputs)}

    embed = jax.jit(forward)
    batches = train_batches(source, batch_size=12, image_size=24, seed=0, rows=local_rows(12, mesh))
    task = loop.Task(make_train_step(loss, optimizer, mesh), batches, evaluate, source.name)
    with Checkpoints(workdir) as checkpoints:
        state, progress = loop.resume(state, task, checkpoints)
        log = MetricsLog(workdir, int(state.step)) if distributed.is_first() else NoLog()
        plan = loop.Plan(total=total, log_every=1, checkpoint_every=100, eval_every=4)
        try:
            loop.fit(state, progress, task, plan, mesh, checkpoints, log, ProgressLine(total, 12))
        except Interrupted as error:
            return str(error)
        finally:
            log.close()
    return "done"


if __name__ == "__main__":
    with distributed.connected(distributed.find_place(None, None, None, os.environ)):
        said = train(Path(sys.argv[1]), total=int(sys.argv[2]), stop_at=int(sys.argv[3]))
    print(f"process of {jax.process_count()}: {said}")
