"""Dice, IoU, and distances between outlines in two definitions.

Distances are in pixels. Libraries define HD95 differently:

``pooled``
    The 95th percentile of the distances of both outlines to each other, taken together (medpy 0.5).
``directed``
    The larger of the 95th percentiles of both directions (MONAI).

An empty mask has no outline. Its distance is ``"100"`` (the TVConv reference), ``"nan"`` (left out of means) or
``"diagonal"`` (of the image).

Masks are boolean arrays ``[h, w]`` of one shape. All functions raise a ``ValueError`` for another shape or dtype, or an
unknown name.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

Definition = Literal["pooled", "directed"]
Empty = Literal["100", "nan", "diagonal"]
DEFINITIONS, EMPTY = get_args(Definition), get_args(Empty)


class Scores(NamedTuple):
    """Scores of one predicted mask."""

    dice: float  # 0 to 1
    hd95: float  # pixels
    asd: float  # pixels


def dice(pred: np.ndarray, true: np.ndarray) -> float:
    """Compute Dice as ``(2 |P and T| + 1) / (|P| + |T| + 1)``: smoothed, so that two empty masks agree; 1 is equal.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/utils/metrics.py.
    """
    _check(pred, true)
    return float((2 * np.sum(pred & true) + 1) / (np.sum(pred) + np.sum(true) + 1))


def overlap(pred: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Compute Dice, ``2 |P and T| / (|P| + |T|)``, and IoU, ``|P and T| / |P or T|``; NaN if both masks are empty."""
    _check(pred, true)
    both, total = int(np.sum(pred & true)), int(np.sum(pred)) + int(np.sum(true))
    return (2 * both / total, both / (total - both)) if total else (float("nan"), float("nan"))


def iou(pred: np.ndarray, true: np.ndarray) -> float:
    """Compute the intersection over union, ``|P and T| / |P or T|``; NaN if both masks are empty."""
    return overlap(pred, true)[1]


def hd95(pred: np.ndarray, true: np.ndarray, *, definition: Definition = "pooled", empty: Empty = "100") -> float:
    """Compute the 95th percentile of the Hausdorff distance between the outlines of two masks, in pixels.

    Args:
        pred: The predicted mask.
        true: The true mask.
        definition: ``"pooled"`` or ``"directed"``, see the module.
        empty: Distance if a mask is empty: ``"100"``, ``"nan"`` or ``"diagonal"``.

    Source: ``medpy.metric.binary.hd95``; ``monai.metrics.compute_hausdorff_distance(percentile=95)``.
    """
    _check(pred, true)
    _check_name("definition", definition, DEFINITIONS)
    _check_name("empty", empty, EMPTY)
    if (distances := _both_ways(pred, true)) is None:
        return _without_outline(pred, empty)
    if definition == "pooled":
        return float(np.percentile(np.concatenate(distances), 95))
    return float(max(np.percentile(values, 95) for values in distances))


def asd(pred: np.ndarray, true: np.ndarray, *, empty: Empty = "100") -> float:
    """Compute the average distance in pixels of the predicted outline to the true one, in this direction alone.

    Source: ``medpy.metric.binary.asd``.
    """
    _check(pred, true)
    _check_name("empty", empty, EMPTY)
    distances = _both_ways(pred, true)
    return _without_outline(pred, empty) if distances is None else float(np.mean(distances[0]))


def scores(pred: np.ndarray, true: np.ndarray, *, definition: Definition = "pooled", empty: Empty = "100") -> Scores:
    """Compute Dice, HD95 and ASD of one mask."""
    return Scores(dice(pred, true), hd95(pred, true, definition=definition, empty=empty), asd(pred, true, empty=empty))


def clean(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a mask (8-connected), with its holes filled.

    Of equally large components it is the topmost. Empty stays empty.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/utils/Utils.py.
    """
    from scipy import ndimage  # late: the layers do not need it

    parts, count = ndimage.label(mask, np.ones((3, 3), bool))
    if count > 1:
        mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(mask)


def _both_ways(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the distances of each mask's outline pixels to the other outline; ``None`` if a mask is empty.

    Pixels with a 4-neighbor outside make up the outline; the image's border counts as outside.
    """
    if not (pred.any() and true.any()):
        return None
    from scipy import ndimage

    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, true)]
    to_pred, to_true = (ndimage.distance_transform_edt(~outline) for outline in outlines)
    return to_true[outlines[0]], to_pred[outlines[1]]


def _check_name(field: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{field}={name!r} is not one of {', '.join(names)}.")


def _without_outline(mask: np.ndarray, empty: Empty) -> float:
    return {"100": 100.0, "nan": float("nan"), "diagonal": float(np.hypot(*mask.shape))}[empty]


def _check(pred: np.ndarray, true: np.ndarray) -> None:
    for name, mask in (("pred", pred), ("true", true)):
        if mask.ndim != 2 or mask.dtype != bool:
            raise ValueError(f"{name} is {mask.dtype} {mask.shape}; it must be a boolean mask [h, w].")
    if pred.shape != true.shape:
        raise ValueError(f"pred is {pred.shape}, but true is {true.shape}; bring one to the other's size.")
