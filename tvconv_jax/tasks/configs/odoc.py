"""Recipe of the segmentation of optic disc and cup."""

from ml_collections import ConfigDict

from tvconv_jax.models.registry import fields_of, list_operators
from tvconv_jax.tasks.configs.arguments import Argument, parse_arguments
from tvconv_jax.tasks.configs.base import MESH, MODEL, ONE_BLOCK, OPTIMIZER, REPORT, TRAIN

# The reference multiplies the rate by 0.2 at epoch 30 of 40; shorter runs keep the proportion.
EPOCHS, MILESTONE = 40, 30


def odoc_config(arg: str | None) -> ConfigDict:
    """DeepLabV3+ on three clinics, tested on the fourth.

    Args:
        arg: ``:`` arguments: ``data=embedded|folder``, ``test_domain=1|2|3|4``, ``operator=tvconv|depthwise|baseline``,
            ``select=last|held_out|reference``, ``image_size``, ``epochs``, ``per_domain``, ``seed``, ``smoke`` (to see
            that everything runs).

    Returns:
        The config. ``data=folder`` is the paper's recipe (256x256, 16 pictures of each domain in a batch, 40 epochs);
        the embedded pictures are smaller and fewer, for two cores and six minutes.

    Raises:
        UserError: If an argument does not fit.
    """
    given = parse_arguments(
        arg,
        {
            "data": Argument(str, "embedded", ("embedded", "folder")),
            "test_domain": Argument(str, "4", ("1", "2", "3", "4")),
            "operator": Argument(str, "tvconv", list_operators("deeplabv3plus")),
            "select": Argument(str, "last", ("last", "held_out", "reference")),
            "image_size": Argument(int, None),
            "epochs": Argument(float, None),
            "per_domain": Argument(int, None),
            "seed": Argument(int, 0),
            "smoke": Argument(bool, False),
        },
    )
    smoke, embedded = given["smoke"], given["data"] == "embedded"
    size = {"image_size": 128, "epochs": 10.0, "per_domain": 8} if embedded else {}
    size = {"image_size": 256, "epochs": float(EPOCHS), "per_domain": 16, **size}
    size |= {"image_size": 64, "epochs": 2.0, "per_domain": 4} if smoke else {}
    size |= {name: given[name] for name in size if given[name] is not None}
    return ConfigDict(
        {
            "task": "segmentation",
            "seed": given["seed"],
            "model": {
                **fields_of("deeplabv3plus", given["operator"]),
                "name": "deeplabv3plus",
                "depth": ONE_BLOCK if smoke else 1.0,
                "operator": given["operator"],
                "num_classes": 2,
                "output_stride": 16,
                "affinity_channels": 4,
                "hidden_channels": 8 if smoke else 64,
                "hidden_layers": 1 if smoke else 3,
                "use_bias": False,
                **MODEL,
                "pretrained": "",
            },
            "data": {
                "source": given["data"],
                **({"size": "smoke" if smoke else "full"} if embedded else {"root": ""}),
                "test_domain": int(given["test_domain"]),
                "image_size": size["image_size"],
                "per_domain": size["per_domain"],
                "sampling": "shuffled",
                "scale_crop": True,
                "workers": 0,
                "timeout": 300.0,  # seconds without a batch that end the run; 0: none
            },
            "mesh": dict(MESH),
            "optimizer": {
                **OPTIMIZER,
                "base_batch": 3 * (8 if embedded else 16),
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.99,
                "epochs": size["epochs"],
                "milestones": (size["epochs"] * MILESTONE / EPOCHS,),
                "factor": 0.2,
            },
            "train": {
                **TRAIN,
                "log_every": 1 if smoke else 10,
                "checkpoint_every": 2 if smoke else 50,
                "eval_every": 1.0 if not embedded else 4.0,
            },
            "eval": {
                "select": given["select"],
                "batch_size": 4 if smoke else 16,
                "threshold": 0.75,
                "hd95": "pooled",
                "empty": "100",
                "pictures": 8,
                "show": "",
                **REPORT,
            },
        }
    )
