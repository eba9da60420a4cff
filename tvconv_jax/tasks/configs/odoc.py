"""Recipe of the segmentation of optic disc and cup."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks.configs import base
from tvconv_jax.tasks.configs.arguments import Argument, common_arguments, parse_arguments, with_given
from tvconv_jax.tasks.keys import KEYS

# The reference multiplies the learning rate by 0.2 at epoch 30 of 40; shorter runs keep the proportion.
EPOCHS, MILESTONE = 40, 30
EVAL = {"threshold": 0.75, "hd95": "pooled", "empty": "100", "num_images": 8, "visualize": ""}
SIZES = {
    "folder": {"image_size": 256, "epochs": float(EPOCHS), "per_domain": 16},
    "embedded": {"image_size": 128, "epochs": 10.0, "per_domain": 8},
    "smoke": {"image_size": 64, "epochs": 2.0, "per_domain": 4},
}


def odoc_arguments() -> dict[str, Argument]:
    """Return the ``:`` arguments of this config."""
    state = KEYS["eval.checkpoint"]
    return {
        "data": Argument(str, "embedded", "origin of the images", ("embedded", "folder")),
        "test_domain": Argument(str, "4", "clinic that is tested, and not trained on", ("1", "2", "3", "4")),
        **common_arguments(list_operators("deeplabv3plus"), "tvconv"),
        "checkpoint": Argument(str, "last", state.meaning, state.choices),
        "per_domain": Argument(int, None, "images of every clinic in a batch"),
    }


def odoc_config(arg: str | None) -> ConfigDict:
    """Return the config of DeepLabV3+ trained on three clinics and tested on the fourth.

    ``data=folder`` is the paper's recipe (256x256, 16 images of each domain in a batch, 40 epochs). The embedded images
    are smaller and fewer, for two cores and six minutes.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder``, ``test_domain=1|2|3|4``, ``operator=`` one of
            ``list_operators("deeplabv3plus")``, ``checkpoint=last|held_out|reference``, ``image_size``, ``epochs``,
            ``per_domain``, ``seed``, ``smoke`` (a test of seconds).

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(arg, odoc_arguments())
    smoke, embedded = given["smoke"], given["data"] == "embedded"
    size = with_given(SIZES["smoke" if smoke else given["data"]], given)
    epochs = size.pop("epochs")
    source = {"source": given["data"], **({"size": "smoke" if smoke else "full"} if embedded else {"root": ""})}
    domain = {"test_domain": int(given["test_domain"])}
    return base.make_config(
        "segmentation",
        given,
        model={"name": "deeplabv3plus", "num_classes": 2, "output_stride": 16, "pretrained": ""},
        data={**source, **domain, **size, "sampling": "shuffled", "scale_crop": True},
        optimizer={
            "base_batch": 3 * (8 if embedded else 16),
            "learning_rate": 1e-3,
            "b1": 0.9,
            "b2": 0.99,
            "epochs": epochs,
            "milestones": (epochs * MILESTONE / EPOCHS,),
            "factor": 0.2,
        },
        train={"checkpoint_every": 2 if smoke else 50, "eval_every": 4.0 if embedded else 1.0},
        eval={"checkpoint": given["checkpoint"], "batch_size": 4 if smoke else 16, **EVAL, **base.REPORT},
    )
