"""Configs of the main jobs, and the strict ``:key=value,...`` arguments behind a config's file name."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.errors import UserError
from tvconv_jax.models.registry import OPERATORS

# The reference divides the rate by 10 at epochs 22, 30 and 35 of 38; shorter runs keep the proportions.
EPOCHS, MILESTONES = 38, (22, 30, 35)


@dataclasses.dataclass(frozen=True)
class Argument:
    """One ``:`` argument of a config.

    Attributes:
        kind: ``int``, ``float``, ``str`` or ``bool``; a ``bool`` is set by its bare name.
        default: Its value where it is not given.
        choices: What a ``str`` may be; empty: anything.
    """

    kind: type
    default: Any
    choices: tuple[str, ...] = ()


def parse_arguments(text: str | None, arguments: dict[str, Argument]) -> dict[str, Any]:
    """Reads ``key=value,key=value,flag`` strictly.

    Args:
        text: What stands behind the colon, or ``None``.
        arguments: What may stand there.

    Returns:
        A value for every argument.

    Raises:
        UserError: For an unknown key, a value of another type or choice, or a key given twice; lists what exists.
    """
    values, seen = {name: argument.default for name, argument in arguments.items()}, set()
    for part in filter(None, (text or "").split(",")):
        name, given, value = part.partition("=")
        if name not in arguments:
            raise UserError(f"config argument {name!r} is unknown; there are: {', '.join(arguments)}.")
        if name in seen:
            raise UserError(f"config argument {name!r} is given twice; give it once.")
        seen.add(name)
        values[name] = _value(name, value if given else None, arguments[name])
    return values


def _value(name: str, text: str | None, argument: Argument) -> Any:
    if argument.kind is bool:
        if text is None:
            return True
        if text not in ("true", "false"):
            raise UserError(f"config argument {name}={text} must be true or false, or just {name}.")
        return text == "true"
    if not text:
        raise UserError(f"config argument {name!r} needs a value, as in {name}={argument.default}.")
    try:
        value = argument.kind(text)
    except ValueError:
        raise UserError(f"config argument {name}={text} must be of type {argument.kind.__name__}.") from None
    if argument.choices and value not in argument.choices:
        raise UserError(f"config argument {name}={text} is unknown; there are: {', '.join(argument.choices)}.")
    return value


def face_config(arg: str | None, *, model: str, width: float) -> ConfigDict:
    """The face job.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder|casia``, ``operator=tvconv|depthwise``, ``image_size``, ``epochs``,
            ``batch_size``, ``seed``, ``smoke`` (seconds, to see that everything runs).
        model: Name of the model.
        width: Its width.

    Returns:
        The config. ``data=folder``, and ``data=casia`` for the field's own formats, are the paper's recipe (96x96,
        batches of 512, 38 epochs); the embedded faces are smaller and fewer, for two cores and six minutes.

    Raises:
        UserError: If an argument does not fit.
    """
    embedded = {"image_size": 48, "epochs": 4.0, "batch_size": 64}
    folder = {"image_size": 96, "epochs": float(EPOCHS), "batch_size": 512}
    given = parse_arguments(
        arg,
        {
            "data": Argument(str, "embedded", ("embedded", "folder", "casia")),
            "operator": Argument(str, "tvconv", tuple(OPERATORS)),
            "image_size": Argument(int, None),
            "epochs": Argument(float, None),
            "batch_size": Argument(int, None),
            "seed": Argument(int, 0),
            "smoke": Argument(bool, False),
        },
    )
    size = {"epochs": 2.0, "batch_size": 16, "image_size": 24} if given["smoke"] else {}
    base = {**(embedded if given["data"] == "embedded" else folder), **size}
    base |= {name: given[name] for name in base if given[name] is not None}
    scale = base["epochs"] / EPOCHS
    source = {"root": "", "max_corrupt": 0.01, "keep": ""}
    if given["data"] == "casia":
        source["verify_root"] = ""
    if given["data"] == "embedded":
        source = {"size": "smoke" if given["smoke"] else "full"}
    return ConfigDict(
        {
            "task": "face",
            "seed": given["seed"],
            "model": {
                "name": model,
                "width": width,
                "operator": given["operator"],
                "stages": (1,) if given["smoke"] else None,
                "affinity_channels": 4,
                "hidden_channels": 8 if given["smoke"] else 64,
                "hidden_layers": 1 if given["smoke"] else 3,
                "use_bias": False,
                "embedding_size": 512,
            },
            "data": {
                "source": given["data"],
                **source,
                "image_size": base["image_size"],
                "batch_size": base["batch_size"],
                "flip": True,
                "workers": 0,
            },
            "loss": {"margin": 0.35, "scale": 32.0},
            "optimizer": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": base["epochs"],
                "milestones": tuple(epoch * scale for epoch in MILESTONES),
                "factor": 0.1,
            },
            "train": {
                "log_every": 1 if given["smoke"] else 10,
                "checkpoint_every": 2 if given["smoke"] else 100,
                "eval_every": 2.0,
            },
            "eval": {"protocol": "standard", "channel_order": "rgb", "batch_size": 200},
        }
    )


def frontal_config(arg: str | None) -> ConfigDict:
    """The classifier of frontal and profile faces.

    Args:
        arg: ``:`` arguments: ``operator=depthwise|tvconv``, ``image_size``, ``epochs``, ``batch_size``, ``seed``,
            ``smoke`` (seconds, to see that everything runs).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(
        arg,
        {
            "operator": Argument(str, "depthwise", tuple(OPERATORS)),
            "image_size": Argument(int, None),
            "epochs": Argument(float, None),
            "batch_size": Argument(int, None),
            "seed": Argument(int, 0),
            "smoke": Argument(bool, False),
        },
    )
    smoke = given["smoke"]
    size = {"image_size": 24, "epochs": 2.0, "batch_size": 8} if smoke else {}
    size = {"image_size": 48, "epochs": 12.0, "batch_size": 64, **size}
    size |= {name: given[name] for name in size if given[name] is not None}
    return ConfigDict(
        {
            "task": "frontal",
            "seed": given["seed"],
            "model": {
                "name": "mobilenetv2",
                "width": 0.1,
                "operator": given["operator"],
                "stages": (1,) if smoke else None,
                "affinity_channels": 4,
                "hidden_channels": 8 if smoke else 64,
                "hidden_layers": 1 if smoke else 3,
                "use_bias": False,
                "embedding_size": 128,
            },
            "data": {
                "root": "",
                "test_share": 0.2,
                "crop": 0.7,
                "image_size": size["image_size"],
                "batch_size": size["batch_size"],
                "workers": 0,
            },
            "optimizer": {
                "learning_rate": 0.05,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": size["epochs"],
                "milestones": (size["epochs"] * 0.6, size["epochs"] * 0.85),
                "factor": 0.1,
            },
            "train": {
                "log_every": 1 if smoke else 10,
                "checkpoint_every": 2 if smoke else 100,
                "eval_every": 2.0,
            },
            "eval": {"batch_size": 100},
        }
    )
