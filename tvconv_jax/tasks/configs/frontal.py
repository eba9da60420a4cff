"""Recipe of the classifier of head pose."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import fields_of, list_operators
from tvconv_jax.tasks.configs.arguments import Argument, parse_arguments
from tvconv_jax.tasks.configs.base import MESH, MODEL, ONE_BLOCK, OPTIMIZER, TRAIN


def frontal_config(arg: str | None) -> ConfigDict:
    """The classifier of frontal and profile faces.

    Args:
        arg: ``:`` arguments: ``operator=`` one of ``list_operators("mobilenetv2")``, ``image_size``, ``epochs``,
            ``batch_size``, ``seed``, ``smoke`` (seconds, to see that everything runs).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(
        arg,
        {
            "operator": Argument(str, "depthwise", list_operators("mobilenetv2")),
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
                **fields_of("mobilenetv2", given["operator"]),
                "name": "mobilenetv2",
                "width": 0.1,
                "depth": ONE_BLOCK if smoke else 1.0,
                "operator": given["operator"],
                "stages": (1,) if smoke else (),
                "affinity_channels": 4,
                "hidden_channels": 8 if smoke else 64,
                "hidden_layers": 1 if smoke else 3,
                "use_bias": False,
                **MODEL,
                "embedding_size": 128,
            },
            "data": {
                "root": "",
                "test_share": 0.2,
                "crop": 0.7,
                "image_size": size["image_size"],
                "batch_size": size["batch_size"],
                "workers": 0,
                "timeout": 300.0,  # seconds without a batch that end the run; 0: none
            },
            "mesh": dict(MESH),
            "optimizer": {
                **OPTIMIZER,
                "base_batch": 64,
                "learning_rate": 0.05,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": size["epochs"],
                "milestones": (size["epochs"] * 0.6, size["epochs"] * 0.85),
                "factor": 0.1,
            },
            "train": {
                **TRAIN,
                "log_every": 1 if smoke else 10,
                "checkpoint_every": 6 if smoke else 100,
                "eval_every": 2.0,
            },
            "eval": {"batch_size": 100},
        }
    )
