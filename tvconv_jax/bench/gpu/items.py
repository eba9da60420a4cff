"""The list of figures that the command measures, most wanted first."""

from collections.abc import Collection, Iterable

from tvconv_jax.bench.gpu.item import MODES, OPERATORS, Group, Item, Sizes
from tvconv_jax.bench.settings import PRECISIONS
from tvconv_jax.models.mobilenetv2 import blocks, scaled

SECTIONS = ("copy", "operators", "steps", "faces")
MODELS = (("mobilenetv2", 0.1), ("mobilenetv2", 1.0), ("shufflenetv2", 0.5))


def groups(sizes: Sizes, only: Collection[str], faces: str | None) -> list[Group]:
    """Return the items of some sections (:data:`SECTIONS`), most wanted first.

    Args:
        sizes: Of all items.
        only: Names of the wanted sections.
        faces: The digest of the set of faces, ``None`` without one.
    """
    copies = [[Item("copy", {"precision": precision})] for precision in PRECISIONS]
    narrow, wide = ([] if sizes.tiny and width == 1 else _operators(width, sizes) for width in (0.1, 1.0))
    narrow = narrow[: 1 if sizes.tiny else None]
    ours = [[_step("ours", *model, operator, precision, sizes) for precision, operator in _pairs()] for model in MODELS]
    theirs = [_baseline(model, sizes) for model in MODELS]
    steps = "steps" in only
    found = [
        Group("jax_side", copies * ("copy" in only) + narrow[:1] * ("operators" in only) + ours[:1] * steps),
        Group("torch_side", theirs[0] * steps),
        Group("jax_side", narrow[1:] * ("operators" in only) + ours[1:] * steps),
        Group("jax_side", _accuracy(sizes, faces) if faces and "faces" in only else []),
        Group("torch_side", (theirs[1] + theirs[2]) * steps),
        Group("jax_side", wide * ("operators" in only)),
        Group(
            "torch_side",
            [[_torch_step(model, MODES[-1], *pair, sizes)] for model in MODELS for pair in _pairs()] * steps,
        ),
    ]
    return _merged([_tiny(group) for group in found] if sizes.tiny else found)


def _merged(found: list[Group]) -> list[Group]:
    """Let neighbors of one side share a process, for each takes seconds to start."""
    merged: list[Group] = []
    for group in found:
        if merged and merged[-1].side == group.side:
            merged[-1] = Group(group.side, merged[-1].sets + group.sets)
        elif group.sets:
            merged.append(group)
    return merged


def shapes(width: float, image_size: int) -> list[tuple[int, int, int]]:
    """Return grid, channels and strides of the operators of MobileNetV2, the largest arrays first."""
    grid, channels, found = image_size, scaled(32, width), []
    for row in blocks(width):
        found.append((grid, channels * row.expansion, row.strides))
        grid, channels = (grid - 1) // row.strides + 1, row.features
    return sorted(dict.fromkeys(found), key=lambda shape: -(shape[0] ** 2) * shape[1])


def _pairs() -> Iterable[tuple[str, str]]:
    return ((precision, operator) for precision in PRECISIONS for operator in OPERATORS)


def _operators(width: float, sizes: Sizes) -> list[list[Item]]:
    return [
        [
            Item(
                "operator",
                {"operator": operator, "shape": [sizes.batch, grid, grid, channels, strides], "precision": precision},
            )
            for precision, operator in _pairs()
        ]
        for grid, channels, strides in shapes(width, sizes.image_size)
    ]


def _step(side: str, name: str, width: float, operator: str, precision: str, sizes: Sizes, mode: str = "") -> Item:
    model = {"side": side} | ({"mode": mode} if mode else {}) | {"model": name, "width": width}
    return Item("step", model | {"operator": operator, "precision": precision, "batch": sizes.batch})


def _torch_step(model: tuple[str, float], mode: str, precision: str, operator: str, sizes: Sizes) -> Item:
    return _step("PyTorch", *model, operator, precision, sizes, mode)


def _baseline(model: tuple[str, float], sizes: Sizes) -> list[list[Item]]:
    """One after the other: PyTorch compiles with all cores."""
    precisions = [[pair for pair in _pairs() if pair[0] == precision] for precision in PRECISIONS]
    return [[_torch_step(model, mode, *pair, sizes)] for pairs in precisions for mode in MODES[:-1] for pair in pairs]


def _accuracy(sizes: Sizes, faces: str) -> list[list[Item]]:
    """All learning rates with the first seed, then the other seeds with the chosen one (``None``)."""

    def item(operator: str, seed: int, learning_rate: float | None) -> Item:
        about = {"operator": operator, "seed": seed, "asked_rate": learning_rate, "epochs": sizes.epochs}
        return Item("accuracy", about | {"batch": sizes.face_batch, "faces": faces})

    first, *others = sizes.seeds
    runs = [(first, learning_rate) for learning_rate in sizes.learning_rates] + [(seed, None) for seed in others]
    return [[item(operator, *run) for operator in OPERATORS] for run in runs]


def _tiny(group: Group) -> Group:
    """Leave out what runs no other code than the rest, for each program takes seconds to compile."""
    steps = {
        "ours": {("shufflenetv2", "depthwise", "bfloat16")},
        "PyTorch": {("mobilenetv2", "depthwise", "float32"), ("shufflenetv2", "tvconv", "bfloat16")},
    }

    def kept(item: Item) -> bool:
        about = item.settings
        if item.what == "operator":
            return (about["operator"], about["precision"]) in {("tvconv", "float32"), ("depthwise", "bfloat16")}
        if item.what == "accuracy":
            return about["operator"] == "tvconv"
        model = tuple(about.get(name) for name in ("model", "operator", "precision"))
        twice = model[0] == "shufflenetv2" and "compiled" in about.get("mode", "")
        return item.what == "copy" or (model in steps[about["side"]] and about["width"] < 1 and not twice)

    sets = [[item for item in items if kept(item)] for items in group.sets]
    return Group(group.side, [items for items in sets if items])
