"""What every recipe says about devices, the same for all jobs; the values are one device, as the recipes were made."""

from typing import Any

# mesh.data: devices along `data`, -1 for all that are left; mesh.model: devices that share the class weights.
MESH: dict[str, Any] = {"data": -1, "model": 1}

# start.checkpoint: a workdir, or a file of the reference, whose weights the run starts from; start.freeze: parameters
# that stay as they are, globs of names, as in `model/stem/*,model/block_[1-5]/*`.
START: dict[str, Any] = {"checkpoint": "", "freeze": ""}

# Keys that runs of an older version did not know, and what they did.
ADDED = {"mesh": MESH, "train": {"nan": "stop"}}


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config, with the keys that it is too old to have."""
    added = ADDED | ({"start": START} if config.get("task") == "face" else {})
    whole = {**config, **{section: {**keys, **config.get(section, {})} for section, keys in added.items()}}
    if "stages" in whole.get("model", {}):
        whole["model"] = {**whole["model"], "stages": whole["model"]["stages"] or []}  # null was all, as () is now
    return whole
