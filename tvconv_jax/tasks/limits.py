"""Ranges of the values of a config, checked before data is opened."""

from collections.abc import Iterator
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tvconv_jax.data.augment import LIMITS
from tvconv_jax.nn.checks import FIELDS, Range, count
from tvconv_jax.tasks.parts import PRECISIONS, check_choice
from tvconv_jax.training.nonfinite import POLICIES
from tvconv_jax.training.optimizer import LR_SCALINGS
from tvconv_jax.utils.cli import MAX_SEED
from tvconv_jax.utils.errors import UserError

BATCH = count(1 << 20)
EVERY = count(1 << 31)  # steps between two of a kind
EPOCHS = Range(0, 1e6)
SHARE = Range(0, 1, above=True)  # of an image's size, of the identities: up to all of it
NOT_NEGATIVE = Range(0)
DECAY = Range(0, 1, below=True)

# Range of every number of a config; those of config.model are fields of a model or an operator. Keys that a config does
# not have are left out, a tuple's numbers are checked one by one, and a number without a row must be finite.
RULES: dict[str, Range] = {
    **{f"model.{name}": rule for name, rule in FIELDS.items()},
    **{f"data.augment.{name}": Range(0, limit) for name, limit in LIMITS.items()},
    **dict.fromkeys(("data.batch_size", "data.per_domain", "eval.batch_size"), BATCH),
    **dict.fromkeys(("optimizer.base_batch", "train.grad_accum_steps"), BATCH),
    **dict.fromkeys(("train.log_every", "train.checkpoint_every"), EVERY),
    **dict.fromkeys(("optimizer.warmup_epochs", "optimizer.milestones"), EPOCHS),
    **dict.fromkeys(("optimizer.epochs", "train.eval_every"), EPOCHS._replace(above=True)),
    **dict.fromkeys(("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.factor"), NOT_NEGATIVE),
    **dict.fromkeys(("optimizer.momentum", "optimizer.b1", "optimizer.b2"), DECAY),
    **dict.fromkeys(("data.crop", "data.test_share"), SHARE),
    **dict.fromkeys(("data.max_corrupt", "eval.threshold"), Range(0, 1)),
    "model.stages": count(64),
    "seed": count(MAX_SEED, low=0),
    "data.image_size": count(4096, low=8),
    "data.test_domain": count(4),
    "data.workers": count(1024, low=0),
    "data.timeout": Range(0, 1e8),  # seconds: three years, about as long as a thread can wait
    "loss.margin": Range(0, 2),  # cosines are no further apart
    "loss.scale": Range(0, above=True),
    "mesh.data": count(1 << 20, low=-1),
    "mesh.model": count(1 << 20),
    "eval.num_images": count(10_000, low=0),
}
# Choices of words that every task has.
WORDS = {"optimizer.lr_scaling": LR_SCALINGS, "train.on_nonfinite": POLICIES, "train.precision": PRECISIONS}
# Keys that a source needs; a config has those of the source behind its colon.
READ = {"embedded": ("size",), "folder": ("root",), "casia": ("root", "verify_root")}


def check_values(config: ConfigDict) -> None:
    """Check the keys that configs share; a task checks its own.

    Raises:
        UserError: If a number is out of range, a word is not one of its choices, or ``data.source`` is not the one
            behind the colon.
    """
    for key, value in numbers(config):
        try:
            RULES.get(key, Range()).check(key, value)
        except ValueError as error:
            raise UserError(f"{str(error).removesuffix('.')}; set --config.{key}.") from None
    for key, choices in WORDS.items():
        part, name = key.split(".")
        if name in config[part]:
            check_choice(key, config[part][name], choices)
    milestones = list(config.get("optimizer", {}).get("milestones", ()))
    if milestones != sorted(milestones):
        raise UserError(f"optimizer.milestones {milestones} must ascend; set --config.optimizer.milestones.")
    data = config.data
    for key in (key for key in READ.get(data.get("source"), ()) if key not in data):
        raise UserError(
            f"data.source {data.source!r} needs data.{key}, which configs of another source lack; choose "
            f"the source behind the config's colon, as in --config=FILE:data={data.source}."
        )
    if "size" in data:
        check_choice("data.size", data.size, ("full", "smoke"))


def numbers(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yield every number of a config, or the value in the place of one, with its key; of a tuple each one."""
    for key, value in flatten_dict(config.to_dict(), sep=".").items():
        for item in value if isinstance(value, tuple | list) else (value,):
            if key in RULES or (isinstance(item, int | float) and not isinstance(item, bool)):
                yield key, item
