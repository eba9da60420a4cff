"""What every recipe says about devices, the same for all jobs; the values are one device, as the recipes were made."""

from typing import Any

# mesh.data: devices along `data`, -1 for all that are left; mesh.model: devices that share the class weights.
MESH: dict[str, Any] = {"data": -1, "model": 1}

# start.checkpoint: a workdir, or a file of the reference, whose weights the run starts from; start.freeze: parameters
# that stay as they are, globs of names, as in `model/stem/*,model/block_[1-5]/*`.
START: dict[str, Any] = {"checkpoint": "", "freeze": ""}

# model.remat: compute anew for the gradient what the model's first blocks compute on large grids; slower, less memory.
MODEL: dict[str, Any] = {"remat": False}

# model.depth of `:smoke`: one block in every stage, which compiles sooner.
ONE_BLOCK = 0.1

# optimizer.scale_rule: "linear" or "sqrt" move the rate with the batch, which is that of all devices together;
# optimizer.base_batch: the batch that the recipe's rate belongs to, which is another in every recipe;
# optimizer.warmup_epochs: epochs in which the rate grows up to that.
OPTIMIZER: dict[str, Any] = {"scale_rule": "none", "base_batch": 512, "warmup_epochs": 0.0}

# train.precision: "float32" or "bfloat16", what the model computes in (parameters, norms and losses stay float32);
# train.batch_norm: statistics of the whole batch, "global", or of each device's pictures, "per_replica",
# or of a number of groups, "8", whatever the devices;
# train.accumulate: parts that a batch is computed in, one after the other;
# train.nan: what a step that is not finite does, "stop" the run or "skip" the step.
TRAIN: dict[str, Any] = {"precision": "float32", "batch_norm": "global", "accumulate": 1, "nan": "stop"}

# data.augment: how far training pictures are turned and sheared (degrees), scaled and moved (shares) at most.
AUGMENT: dict[str, float] = {"rotation": 0.0, "shear": 0.0, "scale": 0.0, "translation": 0.0}

# eval.report_pictures: whether report.html may show pictures of people (faces, fundus); drawn ones are always shown.
REPORT: dict[str, Any] = {"report_pictures": False}

# model.affinity_init: what TVConv's affinity maps start from, "ones", "data" or "normal"; model.generator_padding: what
# its generator sees beyond the border, "zeros" or "edge".
AFFINITY: dict[str, str] = {"affinity_init": "ones", "generator_padding": "zeros"}

# What runs of an older version, which did not know these keys, did; data.timeout: see the recipes.
DATA = {"timeout": 300.0}
ADDED = {"data": DATA, "mesh": MESH, "model": MODEL, "optimizer": OPTIMIZER, "train": TRAIN}
TASKS = {
    "face": {"start": START, "model": {**MODEL, **AFFINITY}, "data": {**DATA, "augment": AUGMENT}, "eval": REPORT},
    "segmentation": {"eval": REPORT},
}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Add the keys that a run's config is too old to have.

    Raises:
        ValueError: If it is another program's: ``config.json`` is a common name.
    """
    from tvconv_jax.models.registry import MODELS, fields_of  # late: it loads Flax

    sections = [config.get(name, {}) for name in ("model", *ADDED, "start", "eval")]
    ours = all(isinstance(one, dict) for one in sections) and all(
        isinstance(name, str)
        for name in (config.get("task", ""), *(sections[0].get(n, "") for n in ("name", "operator")))
    )
    if not ours:
        raise ValueError("it is not a config of this program")
    added = ADDED | TASKS.get(config.get("task"), {})
    whole = {**config, **{section: {**keys, **config.get(section, {})} for section, keys in added.items()}}
    model = whole.get("model", {})
    if model.get("name") in MODELS:
        whole["model"] = {**fields_of(model["name"], model.get("operator", "")), **model}
    if "stages" in model:
        whole["model"]["stages"] = model["stages"] or []  # null was all, as () is now
    return whole
