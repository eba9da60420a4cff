"""Recipe of the classifier of head pose."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments, with_given

FULL = {"image_size": 48, "epochs": 12.0, "batch_size": 64}
SMOKE = {"image_size": 24, "epochs": 2.0, "batch_size": 8}


def frontal_arguments() -> dict[str, Argument]:
    """Return the ``:`` arguments of this config."""
    common = common_arguments(list_operators("mobilenetv2"), "depthwise")
    return {**common, "batch_size": Argument(int, None, "images in a batch, of all devices together")}


def frontal_config(arg: str | None) -> ConfigDict:
    """Return the config of the classifier of frontal and profile faces.

    Args:
        arg: ``:`` arguments: ``operator=`` one of ``list_operators("mobilenetv2")``, ``image_size``, ``epochs``,
            ``batch_size``, ``seed``, ``smoke`` (a test of seconds).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, frontal_arguments())
    smoke = given["smoke"]
    size = with_given(SMOKE if smoke else FULL, given)
    epochs = size.pop("epochs")
    return base.make_config(
        "frontal",
        given,
        model={"name": "mobilenetv2", "width": 0.1, "stages": (1,) if smoke else (), "embedding_size": 128},
        data={"root": "", "test_share": 0.2, "crop": 0.7, **size},
        optimizer={
            "base_batch": 64,
            "learning_rate": 0.05,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "epochs": epochs,
            "milestones": (epochs * 0.6, epochs * 0.85),
            "factor": 0.1,
        },
        train={"checkpoint_every": 6 if smoke else 100, "eval_every": 2.0},
        eval={"batch_size": 100},
    )
