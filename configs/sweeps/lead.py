"""TVConv's lead over the depthwise convolution on small faces: steps, images, widths, learning rates, starts, poolings.

    python -m tvconv_jax.experiments.sweep configs/sweeps/lead.py --settings="sgd *,adamw *" --out=runs/lead
    python -m tvconv_jax.experiments.sweep configs/sweeps/lead.py --settings="images *,ident*,width *" --out=runs/lead
    python -m tvconv_jax.experiments.sweep configs/sweeps/lead.py --settings="start *,pool *,make *" --out=runs/lead
    python -m tvconv_jax.experiments.figures lead runs/lead

The model is MobileNetV2 x0.1 with half the blocks, on embedded faces of 500 identities at 32x32, in batches of 64, by
the quick recipe. Groups ``sgd`` and ``adamw`` train at every learning rate of a grid, on other identities than all
others and verified on others; the best of AdamW, for each operator, stands in ``RATES``, and all other groups use it.
Group ``images 6000`` has 6,000 training images, ``images new`` new ones in every step; a label ``tvconv 750`` is the
operator and the steps. Group ``identities 5000`` has 24 images of each of 5,000 identities. Groups ``width``, ``start``
and ``pool`` change one thing, with 750 steps on 12,000 images. Group ``make run`` is the default config, whole and at
48x48.
"""

from typing import Any

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
OPERATORS = ("tvconv", "depthwise")
GRID = {"sgd": (0.0032, 0.01, 0.032, 0.1, 0.32, 1.0), "adamw": (1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)}
RECIPES = {"sgd": "paper", "adamw": "quick"}
RATES = {"tvconv": 3.2e-3, "depthwise": 1e-2}  # of AdamW
SIZE, BATCH, IDENTITIES, PHOTOS = 32, 64, 500, 24
STEPS = (750, 3000, 12000)
IMAGES = (6000, 24000, 0)  # of the training set; 0: new images in every step
MANY = 5000  # identities, of the group with ten times as many
SHORT = STEPS[0]
WIDTHS = (0.1, 0.2, 0.5)
STARTS = {  # of TVConv
    "64 hidden channels": {"model.hidden_channels": 64},
    "no weight decay": {"optimizer.weight_decay": 0.0},
    "maps of noise": {"model.affinity_init": "normal"},
    "edge padding": {"model.generator_padding": "edge"},
    "edge padding and maps of noise": {"model.generator_padding": "edge", "model.affinity_init": "normal"},
}
POOLS = {"mean": {}, "gdc": {"model.head_pool": "gdc"}, "coordinates": {"model.coordinates": True}}


def setting(
    group: str,
    label: str,
    operator: str,
    *,
    steps: int = SHORT,
    images: int | None = None,
    identities: int = IDENTITIES,
    **more: Any,
) -> Setting:
    """Return a setting of so many steps, training images and identities; 0 images are new ones in every step."""
    photos = PHOTOS if images is None else -(-(images or steps * BATCH) // identities)
    epochs = steps / (photos * identities // BATCH)
    recipe = more.pop("recipe", "quick")
    changes = {
        "model.depth": 0.5,
        "model.hidden_channels": 8,
        "data.photos": photos,
        **({"data.identities": identities} if identities != IDENTITIES else {}),
        "data.cache": "device",
        "optimizer.learning_rate": more.pop("learning_rate", RATES[operator]),
        "optimizer.lr_scaling": "none",
        "optimizer.base_batch": BATCH,
        "optimizer.warmup_epochs": epochs / (4 if recipe == "paper" else 20),
        "train.eval_every": epochs,
        "train.checkpoint_every": 1000,
    }
    argument = f"operator={operator},image_size={SIZE},epochs={epochs!r},recipe={recipe}"
    return Setting(label, CONFIG, argument, changes=changes | more.pop("changes", {}), group=group)


def get_sweep() -> Sweep:
    of_rates = {"data.split_seed": 1}
    return Sweep(
        title="TVConv's lead on small faces: MobileNetV2 x0.1 with half the blocks, 32x32",
        settings=[
            *(
                setting(name, f"{o} {rate:g}", o, recipe=RECIPES[name], learning_rate=rate, changes=of_rates)
                for name, grid in GRID.items()
                for o in OPERATORS
                for rate in grid
            ),
            *(
                setting(f"images {images or 'new'}", f"{o} {steps}", o, steps=steps, images=images)
                for images in IMAGES
                for steps in STEPS
                for o in OPERATORS
            ),
            *(
                setting(f"identities {MANY}", f"{o} {steps}", o, steps=steps, identities=MANY)
                for steps in STEPS
                for o in OPERATORS
            ),
            *(
                setting("width", f"{o} {width}", o, changes={"model.width": width})
                for width in WIDTHS
                for o in OPERATORS
            ),
            *(setting("start", f"tvconv {name}", "tvconv", changes=changes) for name, changes in STARTS.items()),
            *(setting("pool", f"{o} {name}", o, changes=changes) for name, changes in POOLS.items() for o in OPERATORS),
            setting("pool", "tvconv S5 to S7", "tvconv", changes={"model.stages": (5, 6, 7)}),
            *(Setting(o, CONFIG, f"operator={o}", group="make run") for o in OPERATORS),
        ],
        note="1,000 pairs in each of four verification sets, of identities that are not trained on",
    )
