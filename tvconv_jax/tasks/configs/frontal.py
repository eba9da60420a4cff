"""Recipe of the classifier of head pose."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import fields_of, list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments


def frontal_config(arg: str | None) -> ConfigDict:
    """Return the config of the classifier of frontal and profile faces.

    Args:
        arg: ``:`` arguments: ``operator=`` one of ``list_operators("mobilenetv2")``, ``image_size``, ``epochs``,
            ``batch_size``, ``seed``, ``smoke`` (a test of seconds).

    Raises:
        UserError: If an argument does not fit.
    """
    common = common_arguments(list_operators("mobilenetv2"), "depthwise")
    given = parse_arguments(arg, {**common, "batch_size": Argument(int, None)})
    smoke = given["smoke"]
    size = {"image_size": 48, "epochs": 12.0, "batch_size": 64}
    size |= {"image_size": 24, "epochs": 2.0, "batch_size": 8} if smoke else {}
    size |= {name: given[name] for name in size if given[name] is not None}
    epochs = size.pop("epochs")
    return ConfigDict(
        {
            "task": "frontal",
            "seed": given["seed"],
            "model": {
                **fields_of("mobilenetv2", given["operator"]),
                "name": "mobilenetv2",
                "width": 0.1,
                "depth": base.ONE_BLOCK if smoke else 1.0,
                "operator": given["operator"],
                "stages": (1,) if smoke else (),
                **base.generator(smoke),
                **base.MODEL,
                "embedding_size": 128,
            },
            "data": {"root": "", "test_share": 0.2, "crop": 0.7, **size, **base.DATA},
            "mesh": dict(base.MESH),
            "optimizer": {
                **base.OPTIMIZER,
                "base_batch": 64,
                "learning_rate": 0.05,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "epochs": epochs,
                "milestones": (epochs * 0.6, epochs * 0.85),
                "factor": 0.1,
            },
            "train": base.intervals(smoke, checkpoint_every=6 if smoke else 100),
            "eval": {"batch_size": 100},
        }
    )
