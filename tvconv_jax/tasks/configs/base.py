"""Defaults that the recipes share, and the keys that runs of an older version lack."""

from typing import Any

from tvconv_jax.tasks.configs.renamed import rename_keys

# mesh.data: devices along `data`, -1 for all that are left; mesh.model: devices that share the class weights.
MESH: dict[str, Any] = {"data": -1, "model": 1}

# finetune.checkpoint: a workdir, or a file of the reference, whose weights the run starts from; finetune.freeze: globs
# of parameters that are not trained, as in `model/stem/*,model/block_[1-5]/*`.
FINETUNE: dict[str, Any] = {"checkpoint": "", "freeze": ""}

# model.remat: recompute the activations of the first blocks for the gradient; slower, less memory.
MODEL: dict[str, Any] = {"remat": False}

# model.depth of `:smoke`: one block in every stage, which compiles sooner.
ONE_BLOCK = 0.1

# optimizer.lr_scaling: "linear" or "sqrt" scale the learning rate with the batch of all devices together;
# optimizer.base_batch: the batch that the recipe's learning rate belongs to;
# optimizer.warmup_epochs: epochs in which the learning rate grows to its full value.
OPTIMIZER: dict[str, Any] = {"lr_scaling": "none", "base_batch": 512, "warmup_epochs": 0.0}

# train.precision: compute in "float32" or "bfloat16" (parameters, norms and losses stay float32);
# train.batch_norm: statistics of the whole batch, "global"; of each device's images, "per_replica"; or of a number of
# groups, "8", on any number of devices;
# train.grad_accum_steps: parts that a batch is computed in, one after the other;
# train.on_nonfinite: a step that is not finite ends the run, "stop", or changes nothing, "skip".
TRAIN: dict[str, Any] = {"precision": "float32", "batch_norm": "global", "grad_accum_steps": 1, "on_nonfinite": "stop"}

# data.augment: largest rotation and shear (degrees), change of scale and translation (shares) of training images.
AUGMENT: dict[str, float] = {"rotation": 0.0, "shear": 0.0, "scale": 0.0, "translation": 0.0}

# eval.report_images: whether report.html may show real images (faces, fundus); synthetic ones are always shown.
REPORT: dict[str, Any] = {"report_images": False}

# model.affinity_init: initial affinity maps of TVConv, "ones", "data" or "normal"; model.generator_padding: padding in
# its generator, "zeros" or "edge".
AFFINITY: dict[str, str] = {"affinity_init": "ones", "generator_padding": "zeros"}

# data.workers: processes that decode images, 0: threads; data.timeout: seconds without a batch that end the run, or 0.
DATA = {"workers": 0, "timeout": 300.0}

# Defaults of keys that runs of an older version did not have.
_TIMEOUT = {"timeout": DATA["timeout"]}
ADDED = {"data": _TIMEOUT, "mesh": MESH, "model": MODEL, "optimizer": OPTIMIZER, "train": TRAIN}
TASKS = {
    "face": {
        "finetune": FINETUNE,
        "model": {**MODEL, **AFFINITY},
        "data": {**_TIMEOUT, "augment": AUGMENT},
        "eval": REPORT,
    },
    "segmentation": {"eval": REPORT},
}


def generator(smoke: bool) -> dict[str, Any]:
    """Return the fields of TVConv's weight generator: the paper's, or the smallest."""
    hidden = {"hidden_channels": 8, "hidden_layers": 1} if smoke else {"hidden_channels": 64, "hidden_layers": 3}
    return {"affinity_channels": 4, **hidden, "use_bias": False}


def intervals(smoke: bool, *, checkpoint_every: int = 100, eval_every: float = 2.0) -> dict[str, Any]:
    """Return ``config.train``: steps between lines of the log and checkpoints, epochs between evaluations."""
    every = {"log_every": 1 if smoke else 10, "checkpoint_every": checkpoint_every, "eval_every": eval_every}
    return {**TRAIN, **every}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's ``config.json`` with new names of its keys, and the keys that it is too old to have.

    Raises:
        ValueError: If it is another program's: ``config.json`` is a common name.
    """
    from tvconv_jax.models.registry import MODELS, fields_of  # late: it loads Flax

    sections = [config.get(name, {}) for name in ("model", *ADDED, "start", "finetune", "eval")]
    ours = all(isinstance(section, dict) for section in sections) and all(
        isinstance(name, str)
        for name in (config.get("task", ""), *(sections[0].get(n, "") for n in ("name", "operator")))
    )
    if not ours:
        raise ValueError("it is not a config of this program")
    config = rename_keys(config)
    added = ADDED | TASKS.get(config.get("task"), {})
    whole = {**config, **{section: {**keys, **config.get(section, {})} for section, keys in added.items()}}
    model = whole.get("model", {})
    if model.get("name") in MODELS:
        whole["model"] = {**fields_of(model["name"], model.get("operator", "")), **model}
    if "stages" in model:
        whole["model"]["stages"] = model["stages"] or []  # null was all, as () is now
    return whole
