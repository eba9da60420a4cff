"""A process of the run that :mod:`tests.stress.torture` kills: the face task with a tiny model."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.nn.layers import TVConv
from tvconv_jax.tasks import command
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.tasks.run import run
from tvconv_jax.training import distributed, loop
from tvconv_jax.training.state import TrainState
from tvconv_jax.utils.cli import Parser, path_argument
from tvconv_jax.utils.errors import Interrupted

EMBEDDING_SIZE = 16


class Tiny(nn.Module):
    """A TVConv, a norm and a dense layer: every kind of parameter and state, compiled in seconds."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = TVConv(strides=4, affinity_channels=1, hidden_channels=4, hidden_layers=1)(images)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(EMBEDDING_SIZE)(nn.relu(x).reshape(len(x), -1))


class Tortured(FaceJob):
    """The face job on its embedded data, with the usual head, loop and checkpoints.

    Args:
        steps: Of the whole run.
        model_axis: Devices along ``model``.
        trace: File of a line for every step: its number, and the indices of the images that this process loaded.
        pause: Seconds that are added to a step, so that there is time to kill it.
    """

    def __init__(self, *, steps: int, model_axis: int, trace: Path, pause: float) -> None:
        config = face_config("smoke", model="mobilenetv2", width=0.1)
        config.model.embedding_size = EMBEDDING_SIZE
        config.optimizer.learning_rate = 0.01  # a smooth curve, on which rounding stays rounding
        config.mesh.model, config.train.checkpoint_every = model_axis, 2
        super().__init__(config)
        config.optimizer.epochs = steps / self.steps_per_epoch
        self.model, self._trace, self._pause = Tiny(), trace, pause

    def measure(self, _: TrainState) -> dict[str, Any]:
        """Return nothing; the stress test looks at the loss only."""
        return {}

    def task(self) -> loop.Task:
        """Return the task of the face job, with a step that writes the trace."""
        task, file = super().task(), self._trace.open("a")

        def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            rows = np.concatenate([np.asarray(shard.data) for shard in batch["index"].addressable_shards])
            file.write(json.dumps({"step": int(state.step) + 1, "index": rows.tolist()}) + "\n")
            file.flush()
            time.sleep(self._pause)
            return task.train_step(state, batch)

        return task._replace(train_step=step)


def main(arguments: list[str] | None = None) -> None:
    """Train to the end, or until it is killed."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", type=path_argument, required=True)
    parser.add_argument("--trace", type=path_argument, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--model_axis", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the loop handles it, the process dies
    logging.set_verbosity(logging.FATAL)
    command.keep_compiled_programs(cache_dir())
    try:
        with distributed.connected(distributed.find_process(None, None, None, os.environ)):
            job = Tortured(steps=options.steps, model_axis=options.model_axis, trace=options.trace, pause=options.pause)
            run(job, options.workdir)
    except Interrupted as error:
        print(error)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
