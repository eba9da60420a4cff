"""Keys of all configs with their meanings and allowed values, for the checks, ``--mode=config`` and docs/config.md."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from tvconv_jax.data.augment import LIMITS
from tvconv_jax.models.registry import MODELS, list_operators
from tvconv_jax.nn.checks import FIELDS, Range, count, kinds_of
from tvconv_jax.nn.layers import TVConv
from tvconv_jax.training.nonfinite import POLICIES
from tvconv_jax.training.optimizer import LR_SCALINGS, OPTIMIZERS
from tvconv_jax.utils.cli import MAX_SEED

BATCH = count(1 << 20)
EVERY = count(1 << 31)  # steps between two of a kind
EPOCHS = Range(0, 1e6)
SHARE = Range(0, 1, above=True)  # of an image's size, of the identities: up to all of it
NOT_NEGATIVE = Range(0)
DECAY = Range(0, 1, below=True)
BOOL = (True, False)


class Key(NamedTuple):
    """One key of a config."""

    meaning: str
    allowed: Range | tuple | str  # the range of a number, the choices of a word, or a description of the values

    @property
    def range(self) -> Range | None:
        """Range of the number, or of every number of a tuple."""
        return self.allowed if isinstance(self.allowed, Range) else None

    @property
    def choices(self) -> tuple[str, ...]:
        """Words that are allowed, if only some are."""
        words = () if self.range or isinstance(self.allowed, str) else self.allowed
        return () if words == BOOL else words


def _choices(field: str) -> tuple:
    return kinds_of(TVConv)[field].__args__


_MODEL = {
    "name": ("model", tuple(MODELS)),
    "width": ("multiplier of the channels", FIELDS["width"]),
    "operator": ("spatial operator", "an operator of the model"),
    "stages": ("stages that get the operator; `()`: the operator's own, mostly all", count(64)),
    "depth": ("multiplier of the blocks of every stage", FIELDS["depth"]),
    "embedding_size": ("numbers in an embedding", FIELDS["embedding_size"]),
    "num_classes": ("classes of the model's logits", FIELDS["num_classes"]),
    "head_pool": (
        "reduction of the last grid: its average, a learned kernel over all of it, or all of its numbers",
        kinds_of(MODELS["mobilenetv2"].module)["head_pool"].__args__,
    ),
    "coordinates": ("add x and y of every pixel as two channels of the images", BOOL),
    "output_stride": ("stride of the backbone of DeepLabV3+, 16 or 8", FIELDS["output_stride"]),
    "pretrained": ("file with torchvision's weights of the backbone; empty: from scratch", "a path"),
    "patch_size": ("height and width of a patch of MLP-Mixer, a divisor of the image size", FIELDS["patch_size"]),
    "layers": ("layers of MLP-Mixer", FIELDS["layers"]),
    "remat": ("recompute large activations for the gradient: less memory, slower", BOOL),
    "affinity_channels": ("affinity maps of a TVConv layer", FIELDS["affinity_channels"]),
    "affinity_init": ("initial affinity maps of TVConv", ("ones", "data", "normal")),
    "hidden_channels": ("channels of the weight generator", FIELDS["hidden_channels"]),
    "hidden_layers": ("hidden layers of the weight generator", FIELDS["hidden_layers"]),
    "generator_padding": ("padding in the weight generator", _choices("generator_padding")),
    "implementation": ("form in which TVConv is computed; all give the same numbers", _choices("implementation")),
    "use_bias": ("add a bias in the operator", BOOL),
    "experts": ("kernels that an operator with attention mixes", FIELDS["experts"]),
    "reduction": ("divisor of the channels of the attention or of the kernel generator", FIELDS["reduction"]),
    "temperature": ("temperature of the softmax over the kernels", FIELDS["temperature"]),
    "group_channels": ("channels that share a kernel of involution", FIELDS["group_channels"]),
    "squeeze": ("share of the channels in the filter branch of DDF", FIELDS["squeeze"]),
    "heads": ("heads of the attention", FIELDS["heads"]),
    "rank": ("rank of the kernels of tvconv_lowrank", FIELDS["rank"]),
}
_DATA = {
    "source": ("origin of the images, set behind the config's colon", ("embedded", "folder", "casia")),
    "size": ("size of the embedded set", ("full", "smoke")),
    "identities": (
        "identities among the embedded training faces; 0: 500, or 8 of the smoke set",
        count(1_000_000, low=0),
    ),
    "photos": (
        "photographs of each of them; 0: 24, or 8 of the smoke set. With as many as a run takes, every image is new",
        count(1_000_000, low=0),
    ),
    "root": ("folder with your data; casia takes `tfds:NAME` too", "a path"),
    "verify_root": ("folder with the verification sets; empty: `data.root`", "a path"),
    "include_list": ("file that names the training images to use, one a line; empty: all", "a path"),
    "max_corrupt": ("largest share of unreadable training images that is skipped", Range(0, 1)),
    "test_domain": ("clinic that is tested, and not trained on", count(4)),
    "test_share": ("share of the images of every class, or of the identities, that is kept for testing", SHARE),
    "split_seed": (
        "seed of the embedded sets, and of drawn splits into training, validation and test images",
        count(MAX_SEED, low=0),
    ),
    "validation_share": (
        "share of the training images that is not trained on: it fits the temperature",
        Range(0, 1, below=True),
    ),
    "group_pattern": (
        "regular expression whose first group, or whole match, on an image's path names its person or device; all "
        "images of one stay on one side",
        "a regular expression",
    ),
    "images": ("training images of the embedded boards", count(1_000_000, low=10)),
    "shift": ("largest shift of an embedded board, as a share of the image", Range(0, 1)),
    "rotation": ("largest rotation of an embedded board, in degrees", Range(0, 180)),
    "crop": ("smallest size of a random crop, as a share of the image", SHARE),
    "image_size": ("size of the images in pixels: one number, or `(height, width)`", count(4096, low=8)),
    "batch_size": ("images in a batch, of all devices together", BATCH),
    "per_domain": ("images of every clinic in a batch", BATCH),
    "sampling": (
        "drawing of the images of a clinic: every one once an epoch, or at random",
        ("shuffled", "replacement"),
    ),
    "scale_crop": ("scale and crop training images at random", BOOL),
    "flip": ("mirror half of the training images", BOOL),
    "augment.rotation": ("largest random rotation, in degrees", Range(0, LIMITS["rotation"])),
    "augment.shear": ("largest random shear, in degrees", Range(0, LIMITS["shear"])),
    "augment.scale": ("largest random change of scale, as a share", Range(0, LIMITS["scale"])),
    "augment.brightness": ("largest random change of brightness, as a share", Range(0, LIMITS["brightness"])),
    "augment.contrast": ("largest random change of contrast, as a share", Range(0, LIMITS["contrast"])),
    "augment.translation": ("largest random shift, as a share of the image", Range(0, LIMITS["translation"])),
    "workers": ("processes that decode images; 0: threads", count(1024, low=0)),
    "cache": ("place where decoded training images are kept: none, or the devices' memory", ("none", "device")),
    # Three years, about as long as a thread can wait.
    "timeout": ("seconds without a batch that end the run; 0: no limit", Range(0, 1e8)),
}
_OPTIMIZER = {
    "name": ("optimizer with warm-up, cosine and decoupled weight decay", OPTIMIZERS),
    "learning_rate": ("learning rate", NOT_NEGATIVE),
    "lr_scaling": ("scaling of the learning rate with the batch size, from `optimizer.base_batch`", tuple(LR_SCALINGS)),
    "base_batch": ("batch size to which the learning rate belongs", BATCH),
    "warmup_epochs": ("epochs in which the learning rate grows to its full value", EPOCHS),
    "epochs": ("epochs of the training; fractions are allowed", EPOCHS._replace(above=True)),
    "milestones": ("epochs at which the learning rate is multiplied by `optimizer.factor`, in order", EPOCHS),
    "factor": ("factor at every milestone", NOT_NEGATIVE),
    "momentum": ("momentum of SGD", DECAY),
    "b1": ("decay of Adam's mean of the gradients", DECAY),
    "b2": ("decay of Adam's mean of their squares", DECAY),
    "weight_decay": ("weight decay", NOT_NEGATIVE),
}
_TRAIN = {
    "precision": ("number format of the computation; weights, norms and losses stay float32", ("float32", "bfloat16")),
    "batch_norm": (
        "images over which batch statistics are taken: the whole batch, those of a device, or a number of groups",
        "global, per_replica, or a whole number from 1",
    ),
    "grad_accum_steps": ("parts in which a batch is computed, one after the other", BATCH),
    "on_nonfinite": ("action at a loss or gradient that is not finite: end the run, or skip the step", POLICIES),
    "log_every": ("steps between two lines of metrics", EVERY),
    "checkpoint_every": ("steps between two checkpoints", EVERY),
    "eval_every": ("epochs between two evaluations; fractions are allowed", EPOCHS._replace(above=True)),
    "auto": (
        "keys that a run may choose for a small data set or take from `finetune.checkpoint`; those that you give "
        "are taken off, and config.json names those that were chosen; empty: none",
        "keys with commas between them",
    ),
}
_EVAL = {
    "protocol": ("verification: folds by the field's rule, or as the reference", ("standard", "reference")),
    "mirror": ("add the embedding of the mirrored image, as faces do with the protocol standard", BOOL),
    "channel_order": ("order of the colors of the images", ("rgb", "bgr")),
    "batch_size": ("images in a batch of the evaluation", BATCH),
    "report_images": ("show real images in report.html, not only synthetic ones", BOOL),
    "checkpoint": (
        "state that is tested at the end; `reference` selects on the test images",
        ("last", "held_out", "reference"),
    ),
    "bootstrap": ("resamples of the intervals; 0: none", count(1_000_000, low=0)),
    "threshold": ("probability above which a pixel belongs to a mask", Range(0, 1)),
    "hd95": ("definition of the Hausdorff distance", ("pooled", "directed")),
    "empty": (
        "distance of a mask that is empty: 100 pixels, left out, or the diagonal of the image",
        ("100", "nan", "diagonal"),
    ),
    "num_images": ("test images that are drawn at the end: the worst, and as many others", count(10_000, low=0)),
    "visualize": ("further test images to draw, as `Domain4/000.png,Domain4/007.png`", "names with commas"),
}
_OTHERS = {
    "task": ("task, set by the config file", ("face", "frontal", "segmentation", "classification", "verification")),
    "seed": ("seed of weights, order and augmentation", count(MAX_SEED, low=0)),
    "loss.margin": ("margin of AM-Softmax, as a cosine", Range(0, 2)),  # cosines are no further apart
    "loss.label_smoothing": ("share of the target that all classes have in common", Range(0, 1, below=True)),
    "loss.class_weights": (
        "weights of the classes: none, or balanced, by one over the number of their images or pixels",
        ("none", "balanced"),
    ),
    "loss.scale": ("scale of AM-Softmax", Range(0, above=True)),
    "mesh.data": ("devices along the batch; -1: all that are left", count(1 << 20, low=-1)),
    "mesh.model": ("devices that share the class weights", count(1 << 20)),
    "finetune.checkpoint": (
        "workdir, or file of the reference, with the weights to start from; empty: fresh",
        "a path",
    ),
    "finetune.freeze": ("parameters that are not trained, as `model/stem/*,model/block_[1-5]/*`", "globs with commas"),
}
_SECTIONS = {"model": _MODEL, "data": _DATA, "optimizer": _OPTIMIZER, "train": _TRAIN, "eval": _EVAL}
KEYS = {
    **{key: Key(*row) for key, row in _OTHERS.items()},
    **{f"{section}.{name}": Key(*row) for section, rows in _SECTIONS.items() for name, row in rows.items()},
}

# Keys whose values depend on the model.
OF_MODEL = {
    "model.width": lambda name: MODELS[name].widths,
    "model.operator": list_operators,
    "model.stages": lambda name: MODELS[name].stages,
}


def describe_allowed(key: str, model: str | None = None) -> str:
    """Return the allowed values of a key in words, those of the model of that name or of all models."""
    allowed = KEYS[key].allowed
    if key in OF_MODEL:
        models: dict[tuple, list[str]] = {}
        for name in MODELS if model is None else [model]:
            models.setdefault(tuple(OF_MODEL[key](name)), []).append(name)
        texts = {", ".join(map(str, values)): names for values, names in models.items() if values}
        return "; ".join(text if model else f"{text} ({', '.join(names)})" for text, names in texts.items()) or "none"
    if isinstance(allowed, Range):
        return describe_range(allowed)
    return ", ".join(map(str, allowed)) if isinstance(allowed, tuple) else allowed


def describe_range(rule: Range) -> str:
    """Return a range in words."""
    kind = "whole number" if rule.whole else "number"
    low = f"{'above' if rule.above else 'from'} {rule.low:.12g}"
    high = f" to {'less than ' if rule.below else ''}{rule.high:.12g}" if rule.high < math.inf else ""
    return f"{kind} {low}{high}"


def near(name: str, names: Iterable[str] = KEYS) -> list[str]:
    """Return the keys that a mistyped one may mean: those with the same last part, then similar ones."""
    names = list(names)
    last = {key: key.rpartition(".")[2] for key in names}
    same = [key for key in names if last[key] == name.rpartition(".")[2]]
    close = get_close_matches(name, names, n=3, cutoff=0.75)
    alike = get_close_matches(name.rpartition(".")[2], set(last.values()), n=2, cutoff=0.75)
    return list(dict.fromkeys([*same, *close, *(key for key in names if last[key] in alike)]))[:4]


def did_you_mean(name: str, names: Iterable[str] = KEYS) -> str:
    """Return the end of a message that names the keys that may be meant, or an empty text."""
    found = near(name, names)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def get(config: Any, key: str) -> Any:
    """Return the value of a key with dots, or ``None`` if a config does not have it."""
    for name in key.split("."):
        if config is None or name not in config:
            return None
        config = config[name]
    return config
