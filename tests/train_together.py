"""One process of several that train a few layers on the embedded faces, for test_distributed.py."""

import functools
import os
import signal
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from tvconv_jax import TVConv
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.pipeline import eval_batches, train_batches
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.tasks.face_model import init_class_weights, make_head
from tvconv_jax.training import distributed, loop
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.logging import MetricsLog
from tvconv_jax.training.mesh import local_rows, make_mesh, put_batch
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import make_train_step
from tvconv_jax.utils.errors import Interrupted
from tvconv_jax.utils.progress import ProgressLine

# 16 of 64 pictures a step; what a norm has too few numbers for would amplify rounding, so there are just two.
BATCH, SIDE, CLASSES, STEPS = 16, 24, 8, 20


class Layers(nn.Module):
    """TVConv between two norms over the global batch."""

    @nn.compact
    def __call__(self, images, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = norm()(nn.Conv(8, (3, 3), strides=2, use_bias=False)(images))
        x = norm()(TVConv(hidden_channels=8, hidden_layers=1)(nn.relu(x)))
        return nn.Dense(16, use_bias=False)(nn.relu(x).mean((1, 2)))


def train(workdir, *, total, stop_at=0, model=1):
    """Trains to ``total`` steps, classes over ``model`` devices; at step ``stop_at`` the last process gets SIGTERM."""
    workdir.mkdir(exist_ok=True)
    mesh, layers, optimizer = make_mesh(model=model), Layers(), sgd(lambda _: 0.02, momentum=0.9, weight_decay=5e-4)
    source, _, _ = embedded.load("smoke", cache_dir())
    variables = jax.jit(functools.partial(layers.init, train=False))(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    params = {
        "model": variables["params"],
        "class_weights": init_class_weights(jax.random.key(1), 16, CLASSES, mesh),
    }
    columns = {"class_weights": CLASSES}
    state = create_state(params, variables["batch_stats"], optimizer, 0, mesh, columns=columns)
    head = make_head(mesh, classes=CLASSES, margin=0.35, scale=8.0)

    def loss(params, batch_stats, batch, _):
        variables, images = {"params": params["model"], "batch_stats": batch_stats}, normalize(batch["image"])
        embeddings, updates = layers.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.mean(head(embeddings, params["class_weights"], batch["label"])[0]), (updates["batch_stats"], {})

    @jax.jit
    def embed(state, images):
        variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
        return layers.apply(variables, normalize(images), train=False).sum(1)

    def evaluate(state):
        if int(state.step) == stop_at and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        outputs = []  # the sum is right only if every picture comes once
        for batch in eval_batches(source, batch_size=24, image_size=SIDE, rows=local_rows(24, mesh)):
            outputs += distributed.to_host(embed(state, put_batch(batch["image"], mesh)))[batch["mask"]].tolist()
        return {"score": float(sum(outputs)), "pictures": len(outputs)}

    batches = train_batches(source, batch_size=BATCH, image_size=SIDE, seed=0, rows=local_rows(BATCH, mesh))
    task = loop.Task(make_train_step(loss, optimizer, mesh), batches, evaluate, source.name)
    with Checkpoints(workdir) as checkpoints:
        state, progress = loop.resume(state, task, checkpoints)
        log = MetricsLog(workdir, int(state.step))
        plan = loop.Plan(total=total, log_every=1, checkpoint_every=100, eval_every=5)
        try:
            loop.fit(state, progress, task, plan, mesh, checkpoints, log, ProgressLine(total, BATCH))
        except Interrupted as error:
            return str(error)
        finally:
            log.close()
    return "done"


if __name__ == "__main__":
    with distributed.connected(distributed.find_process(None, None, None, os.environ)):
        total, stop_at, model = map(int, sys.argv[2:])
        said = train(Path(sys.argv[1]), total=total, stop_at=stop_at, model=model)
    print(f"process of {jax.process_count()}: {said}")
