"""Recipe of the face job."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import MODELS, fields_of, list_operators
from tvconv_jax.tasks.configs.arguments import Argument, parse_arguments
from tvconv_jax.tasks.configs.base import AFFINITY, AUGMENT, MESH, MODEL, ONE_BLOCK, OPTIMIZER, REPORT, START, TRAIN

# The reference divides the rate by 10 at epochs 22, 30 and 35 of 38; shorter runs keep the proportions.
EPOCHS, MILESTONES = 38, (22, 30, 35)


def face_config(arg: str | None, *, model: str, width: float) -> ConfigDict:
    """The face job.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder|casia``, ``operator=`` one of ``list_operators(model)``,
            ``image_size``, ``epochs``, ``batch_size``, ``seed``, ``smoke`` (seconds, to see that everything runs).
        model: Name of the model.
        width: Its width.

    Returns:
        The config. ``data=folder``, and ``data=casia`` for the field's own formats, are the paper's recipe (96x96,
        batches of 512, 38 epochs, a rate of 0.1). The embedded faces are smaller and fewer, for two cores and five
        minutes: the rate is smaller by the square root of 512 / 64, 0.035, and grows during the first quarter of
        the epochs. At 0.1 some runs do not learn (docs/appendix/seeds.md).

    Raises:
        UserError: If an argument does not fit.
    """
    embedded = {"image_size": 48, "epochs": 4.0, "batch_size": 64}
    folder = {"image_size": 96, "epochs": float(EPOCHS), "batch_size": 512}
    operators = list_operators(model)
    given = parse_arguments(
        arg,
        {
            "data": Argument(str, "embedded", ("embedded", "folder", "casia")),
            "operator": Argument(str, operators[0], operators),
            "image_size": Argument(int, None),
            "epochs": Argument(float, None),
            "batch_size": Argument(int, None),
            "seed": Argument(int, 0),
            "smoke": Argument(bool, False),
        },
    )
    size = {"epochs": 2.0, "batch_size": 16, "image_size": 24} if given["smoke"] else {}
    base = {**(embedded if given["data"] == "embedded" else folder), **size}
    drawn = given["data"] == "embedded" and not given["smoke"]
    base_batch = 512 if drawn else base["batch_size"]  # that the rate belongs to
    base |= {name: given[name] for name in base if given[name] is not None}
    fields = fields_of(model, given["operator"])
    if given["smoke"] and "depth" in fields:
        fields["depth"] = ONE_BLOCK
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
                **fields,
                "name": model,
                "width": width,
                "operator": given["operator"],
                "stages": MODELS[model].stages[:1] if given["smoke"] else (),
                "affinity_channels": 4,
                "hidden_channels": 8 if given["smoke"] else 64,
                "hidden_layers": 1 if given["smoke"] else 3,
                "use_bias": False,
                **AFFINITY,
                **MODEL,
                "embedding_size": 512,
            },
            "data": {
                "source": given["data"],
                **source,
                "image_size": base["image_size"],
                "batch_size": base["batch_size"],
                "flip": True,
                "augment": dict(AUGMENT),
                "workers": 0,
                "timeout": 300.0,  # seconds without a batch that end the run; 0: none
            },
            "loss": {"margin": 0.35, "scale": 32.0},
            "mesh": dict(MESH),
            "start": dict(START),
            "optimizer": {
                **OPTIMIZER,
                "scale_rule": "sqrt" if drawn else "none",
                "base_batch": base_batch,
                "warmup_epochs": base["epochs"] / 4 if drawn else 0.0,
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": base["epochs"],
                "milestones": tuple(epoch * scale for epoch in MILESTONES),
                "factor": 0.1,
            },
            "train": {
                **TRAIN,
                "log_every": 1 if given["smoke"] else 10,
                "checkpoint_every": 6 if given["smoke"] else 100,
                "eval_every": 2.0,
            },
            "eval": {"protocol": "standard", "channel_order": "rgb", "batch_size": 200, **REPORT},
        }
    )
