"""Defaults that the configs share, and the keys that runs of an older version lack.

Their meanings stand in :mod:`tvconv_jax.tasks.keys`.
"""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, fields_of
from tvconv_jax.tasks.configs.renamed import rename_keys

ONE_BLOCK = 0.1  # model.depth of `:smoke`: one block in every stage, which compiles sooner
MESH = {"data": -1, "model": 1}
FINETUNE = {"checkpoint": "", "freeze": ""}
MODEL = {"remat": False}
AFFINITY = {"affinity_init": "ones", "generator_padding": "zeros"}
OPTIMIZER = {"lr_scaling": "none", "base_batch": 512, "warmup_epochs": 0.0}
TRAIN = {"precision": "float32", "batch_norm": "global", "grad_accum_steps": 1, "on_nonfinite": "stop"}
DATA = {"workers": 0, "cache": "none", "timeout": 300.0}
AUGMENT = {"rotation": 0.0, "shear": 0.0, "scale": 0.0, "translation": 0.0}
DRAWN = {"identities": 0, "photos": 0, "split_seed": 0}  # of the embedded faces
REPORT = {"report_images": False}
OF_CLASSES = ("classification", "segmentation")  # tasks whose models return logits, so with model.num_classes

# Defaults of keys that runs of an older version did not have.
_DATA = {name: DATA[name] for name in ("cache", "timeout")}
ADDED = {"data": _DATA, "mesh": MESH, "model": MODEL, "optimizer": OPTIMIZER, "train": TRAIN}
TASKS = {
    "face": {
        "finetune": FINETUNE,
        "model": {**MODEL, **AFFINITY},
        "data": {**_DATA, "augment": AUGMENT},
        "train": {**TRAIN, "auto": ""},
        "eval": REPORT,
    },
    "segmentation": {"eval": REPORT},
}


def make_config(task: str, given: dict[str, Any], **sections: dict[str, Any]) -> ConfigDict:
    """Return the config of a task with its ``:`` arguments and its own keys by section, which replace defaults."""
    smoke, model = given["smoke"], sections["model"]
    fields = _model_fields(task, model["name"], given["operator"])
    if smoke and "depth" in fields:
        fields["depth"] = ONE_BLOCK
    hidden = {"hidden_channels": 8, "hidden_layers": 1} if smoke else {"hidden_channels": 64, "hidden_layers": 3}
    generator = {"affinity_channels": 4, **hidden, "use_bias": False}  # the paper's, or the smallest
    model = {**fields, "operator": given["operator"], **generator, **MODEL, **model}
    shared = {
        "model": model,
        "data": {**sections["data"], **DATA},
        "mesh": dict(MESH),
        "optimizer": {**OPTIMIZER, **sections["optimizer"]},
        "train": {**TRAIN, "log_every": 1 if smoke else 10, **sections["train"]},
    }
    return ConfigDict({"task": task, "seed": given["seed"], **sections, **shared})


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's ``config.json`` with new names of its keys, and the keys that it is too old to have.

    Raises:
        ValueError: If it is another program's: ``config.json`` is a common name.
    """
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
        whole["model"] = {**_model_fields(config.get("task"), model["name"], model.get("operator", "")), **model}
    if config.get("task") in ("face", "verification") and whole["data"].get("source") == "embedded":
        whole["data"] = {**DRAWN, **whole["data"]}
    if "stages" in model:
        whole["model"]["stages"] = model["stages"] or []  # null was all, as () is now
    return whole


def _model_fields(task: str | None, name: str, operator: str) -> dict[str, Any]:
    """Return the fields of a task's model and their defaults; one that returns embeddings has no classes."""
    fields = fields_of(name, operator)
    return fields if task in OF_CLASSES else {key: value for key, value in fields.items() if key != "num_classes"}
