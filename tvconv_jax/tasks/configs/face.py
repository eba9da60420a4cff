"""Recipes of the face task, and of the verification of one's own identities, which is the same task."""

from typing import Any

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, OPERATORS, list_operators
from tvconv_jax.tasks import rates
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments, with_given
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import height_width, parse_size

# The reference divides the learning rate by 10 at epochs 22, 30 and 35 of 38; shorter runs keep the proportions.
EPOCHS, MILESTONES = 38, (22, 30, 35)
RECIPES = ("paper", "quick")
PAPER = {"image_size": 96, "epochs": float(EPOCHS), "batch_size": 512}
EMBEDDED = {"image_size": 48, "epochs": 4.0, "batch_size": 64}
QUICK_EPOCHS = 5.0  # of the embedded faces
SMOKE = {"image_size": 24, "epochs": 2.0, "batch_size": 16}
# Values of the paper's recipe that a run may replace, see :mod:`tvconv_jax.tasks.small_data`.
FREE = {
    "data.batch_size": PAPER["batch_size"],
    "data.image_size": PAPER["image_size"],
    "model.hidden_channels": 64,
    "optimizer.base_batch": PAPER["batch_size"],
    "optimizer.epochs": PAPER["epochs"],
    "optimizer.learning_rate": 0.1,
    "optimizer.milestones": tuple(map(float, MILESTONES)),
    "optimizer.warmup_epochs": 0.0,
}
OWN_FREE = FREE | {"data.image_size": height_width(PAPER["image_size"])}  # of own identities
EMBEDDING = ("mobilenetv2", "shufflenetv2", "mlp_mixer")  # models that give embeddings


def face_arguments(model: str) -> dict[str, Argument]:
    """Return the ``:`` arguments of a face config."""
    data = Argument(str, "embedded", "origin of the images", KEYS["data.source"].choices)
    batch_size = Argument(int, None, "images in a batch, of all devices together")
    recipe = Argument(str, None, "recipe of the training; quick for embedded faces", RECIPES)
    return {"data": data, **common_arguments(list_operators(model)), "batch_size": batch_size, "recipe": recipe}


def face_config(arg: str | None, *, model: str, width: float) -> ConfigDict:
    """Return the config of the face task.

    ``data=folder``, and ``data=casia`` for the field's own formats, are the paper's recipe (96x96, batches of 512, 38
    epochs, SGD with a learning rate of 0.1). The embedded faces are smaller and fewer, for two cores and five minutes.
    Their recipe is ``quick``: AdamW along a cosine, and weight generators of 8 hidden channels in place of 64. With
    ``recipe=paper`` they have SGD, whose rate is scaled by the square root of 64 / 512, to 0.035, and grows during the
    first quarter of the epochs. At 0.1 some runs do not learn (docs/appendix/seeds.md).

    Args:
        arg: ``:`` arguments: ``data=embedded|folder|casia``, ``operator=`` one of ``list_operators(model)``,
            ``image_size``, ``epochs``, ``batch_size``, ``recipe=paper|quick``, ``seed``, ``smoke`` (a test of
            seconds).
        model: Name of the model.
        width: Width multiplier of the model.

    Raises:
        UserError: If an argument does not fit.
    """
    return config_of("face", parse_arguments(arg, face_arguments(model)), {"name": model, "width": width})


def verification_arguments() -> dict[str, Argument]:
    """Return the ``:`` arguments of this config."""
    common = face_arguments(EMBEDDING[0])
    own = {
        "data": common.pop("data"),
        "model": Argument(str, EMBEDDING[0], "model", EMBEDDING),
        "width": Argument(float, None, "multiplier of the channels; default: the model's smallest"),
        "operator": Argument(str, None, "spatial operator; default: the model's first", ("baseline", *OPERATORS)),
        "embedding_size": Argument(int, 512, "numbers in an embedding"),
        "head_pool": Argument(str, None, "pooling before the embedding", ("mean", "gdc", "flatten")),
        "image_size": Argument(parse_size, None, "height and width of the images, as 64 or 48x64"),
    }
    return own | {name: argument for name, argument in common.items() if name not in own}


def verification_config(arg: str | None) -> ConfigDict:
    """Return the config of the verification of one's own identities.

    It is that of faces (:func:`tvconv_jax.tasks.configs.face_config`) without mirrored images, since most objects are
    not symmetric, and with the size of the images open: it is chosen from the data.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder|casia``, ``model``, ``width``, ``operator``, ``embedding_size``,
            ``head_pool``, ``image_size`` as 64 or 48x64, ``epochs``, ``batch_size``, ``recipe``, ``seed``,
            ``smoke``.

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, verification_arguments())
    name = given["model"]
    operators = list_operators(name)
    given["operator"] = given["operator"] or operators[0]
    if given["operator"] not in operators:
        raise UserError(f"operator={given['operator']} is not one of {name}; there are: {', '.join(operators)}.")
    width = MODELS[name].widths[0] if given["width"] is None else given["width"]
    model: dict[str, Any] = {"name": name, "width": width, "embedding_size": given["embedding_size"]}
    if given["head_pool"]:
        model["head_pool"] = given["head_pool"]
    config = config_of("verification", given, model)
    with config.ignore_type():
        config.data.image_size = height_width(config.data.image_size)
    config.data.flip = False
    config.eval.mirror = False
    return config


def config_of(task: str, given: dict[str, Any], model: dict[str, Any]) -> ConfigDict:
    """Return the config of a task for the values of its ``:`` arguments and its keys of the model."""
    smoke, source = given["smoke"], given["data"]
    drawn = source == "embedded" and not smoke
    quick = (given["recipe"] or ("quick" if drawn else "paper")) == "quick"
    size = SMOKE if smoke else EMBEDDED if drawn else PAPER
    base_batch = PAPER["batch_size"] if drawn else size["batch_size"]  # that the paper's learning rate belongs to
    size = with_given(size | {"epochs": QUICK_EPOCHS} if quick and drawn else size, given)
    epochs = size.pop("epochs")
    of_recipe = _quick(given["operator"], epochs, size["batch_size"]) if quick else _paper(epochs, base_batch, drawn)
    return base.make_config(
        task,
        given,
        model={
            "stages": MODELS[model["name"]].stages[:1] if smoke else (),
            **base.AFFINITY,
            "embedding_size": 512,
            **({"hidden_channels": 8} if quick and not smoke else {}),
            **model,
        },
        data={**_source(source, smoke), **size, "flip": True, "augment": dict(base.AUGMENT)},
        loss={"margin": 0.35, "scale": 32.0},
        finetune=dict(base.FINETUNE),
        optimizer={"epochs": epochs, **of_recipe},
        train={
            "checkpoint_every": 6 if smoke else 100,
            "eval_every": epochs / 2 if quick else 2.0,
            "auto": _auto(given, quick),
        },
        eval={"protocol": "standard", "channel_order": "rgb", "batch_size": 200, **base.REPORT},
    )


def _paper(epochs: float, base_batch: int, drawn: bool) -> dict[str, Any]:
    return {
        "lr_scaling": "sqrt" if drawn else "none",
        "base_batch": base_batch,
        "warmup_epochs": epochs / 4 if drawn else 0.0,
        "learning_rate": FREE["optimizer.learning_rate"],
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "milestones": tuple(epoch * (epochs / EPOCHS) for epoch in MILESTONES),
        "factor": 0.1,
    }


def _quick(operator: str, epochs: float, batch_size: int) -> dict[str, Any]:
    return {
        "name": "adamw",
        "base_batch": batch_size,
        "warmup_epochs": epochs / 20,
        "learning_rate": rates.of_classes(operator),
        "weight_decay": 0.05,
    }


def _auto(given: dict[str, Any], quick: bool) -> str:
    """Return the keys of ``train.auto``: those of the paper's recipe that no argument sets."""
    if given["data"] == "embedded" or given["smoke"]:
        return ""
    set_by = dict.fromkeys(("data.batch_size", "optimizer.base_batch"), "batch_size")
    set_by |= dict.fromkeys(("optimizer.epochs", "optimizer.milestones"), "epochs") | {"data.image_size": "image_size"}
    fixed = ("optimizer.learning_rate", "optimizer.milestones") if quick else ()
    return ",".join(key for key in FREE if key not in fixed and (key not in set_by or given[set_by[key]] is None))


def _source(name: str, smoke: bool) -> dict[str, Any]:
    if name == "embedded":
        return {"source": name, "size": "smoke" if smoke else "full", **base.DRAWN}
    source = {"source": name, "root": "", "max_corrupt": 0.01, "include_list": ""}
    return source | ({"verify_root": ""} if name == "casia" else {})
