"""TVConv and the depthwise convolution on drawn boards: few and many images, boards that lie still and that move.

    python -m tvconv_jax.experiments.sweep configs/sweeps/inspection.py --settings="rate *" --out=runs/boards
    python -m tvconv_jax.experiments.sweep configs/sweeps/inspection.py --seeds=0,1,2 --out=runs/boards \
        --settings="images *,moved *,steps *"
    python -m tvconv_jax.experiments.figures boards runs/boards

The first command trains at every learning rate, on other boards than the second and scored on other boards. The best
of each operator stands in ``RATES``.

Group ``images`` has a label ``tvconv 300`` for 300 training images; boards are shifted by up to 1 % of the image and
rotated by up to 1 degree. Group ``moved`` has 3,000 images and a label ``tvconv 4`` for 4 % and 4 degrees, in training
and test images alike. Group ``steps`` trains four times as long as ``images`` on 10,000 images. The model is
MobileNetV2 x0.1 with half the blocks.
"""

from typing import Any

from tvconv_jax.experiments.sweep import Setting, Sweep

OPERATORS = ("tvconv", "depthwise")
GRID = {"tvconv": (1e-3, 3.2e-3, 1e-2), "depthwise": (3.2e-3, 1e-2, 3.2e-2, 1e-1)}
RATES = {"tvconv": 3.2e-3, "depthwise": 1e-2}
SIZE, BATCH, STEPS = 48, 32, 600
COUNTS = (300, 1000, 3000, 10000)  # of training images
STILL, IMAGES = 1, 3000  # of the other group
MOVED = (0, 4, 12)  # percent of the image, and degrees
LONG = 2400  # steps of the last group, on the largest number of images


def changes(images: int, moved: int, learning_rate: float, *, boards: int = 0, steps: int = STEPS) -> dict[str, Any]:
    """Return the changes of a setting: no augmentation, and no setting left to the rule for own data."""
    epochs = steps / (images // BATCH)
    return {
        "model.depth": 0.5,
        "data.images": images,
        "data.image_size": (SIZE, SIZE),
        "data.split_seed": boards,
        "data.shift": moved / 100,
        "data.rotation": float(moved),
        "data.batch_size": BATCH,
        "optimizer.base_batch": BATCH,
        "optimizer.learning_rate": learning_rate,
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": epochs / 20,
        "train.eval_every": epochs,
        "train.auto": "",
        **{f"data.augment.{name}": 0.0 for name in ("rotation", "scale", "translation", "brightness", "contrast")},
    }


def setting(group: str, operator: str, value: float, **values: Any) -> Setting:
    rate = values.pop("learning_rate", RATES[operator])
    of_setting = changes(values.pop("images", IMAGES), values.pop("moved", STILL), rate, **values)
    label = f"{operator} {value:g}"
    return Setting(label, "configs/classification.py", f"operator={operator}", changes=of_setting, group=group)


def get_sweep() -> Sweep:
    return Sweep(
        title="Drawn boards: MobileNetV2 x0.1 with half the blocks",
        settings=[
            *(setting("rate", o, rate, learning_rate=rate, boards=1) for o in OPERATORS for rate in GRID[o]),
            *(setting("images", o, images, images=images) for o in OPERATORS for images in COUNTS),
            *(setting("moved", o, moved, moved=moved) for o in OPERATORS for moved in MOVED),
            *(setting("steps", o, LONG, images=COUNTS[-1], steps=LONG) for o in OPERATORS),
        ],
        note="chance is 20 %; 1,000 test images; moved: in percent of the image, and in degrees",
    )
