"""Dice, and distances between outlines in two definitions.

Distances are in pixels. Libraries define HD95 differently:

``pooled``
    The 95th percentile of the distances of both outlines to each other, taken together (medpy 0.5).
``directed``
    The larger of the 95th percentiles of both directions (MONAI).

An empty mask has no outline. Its distance is ``"100"`` (the TVConv reference), ``"nan"`` (left out of means) or
``"diagonal"`` (of the image).
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

Definition = Literal["pooled", "directed"]
Empty = Literal["100", "nan", "diagonal"]

DEFINITIONS = ("pooled", "directed")
EMPTY = ("100", "nan", "diagonal")

EIGHT_CONNECTED = np.ones((3, 3), bool)


class Scores(NamedTuple):
    """Scores of one predicted mask.

    Attributes:
        dice: 0 to 1.
        hd95: Pixels.
        asd: Pixels.
    """

    dice: float
    hd95: float
    asd: float


def dice(pred: np.ndarray, true: np.ndarray) -> float:
    """Compute Dice as ``(2 |P and T| + 1) / (|P| + |T| + 1)``: smoothed, so that two empty masks agree.

    Args:
        pred: Boolean ``[h, w]``.
        true: Boolean ``[h, w]``.

    Returns:
        0 to 1; 1 is equal.

    Raises:
        ValueError: If a shape or dtype does not fit.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/utils/metrics.py.
    """
    _check(pred, true)
    return float((2 * np.sum(pred & true) + 1) / (np.sum(pred) + np.sum(true) + 1))


def hd95(pred: np.ndarray, true: np.ndarray, *, definition: Definition = "pooled", empty: Empty = "100") -> float:
    """Compute the 95th percentile of the Hausdorff distance between the outlines of two masks.

    Args:
        pred: Boolean ``[h, w]``.
        true: Boolean ``[h, w]``.
        definition: ``"pooled"`` or ``"directed"``, see the module.
        empty: Distance if a mask is empty: ``"100"``, ``"nan"`` or ``"diagonal"``.

    Returns:
        Pixels; 0 is equal.

    Raises:
        ValueError: If a shape, dtype or name does not fit.

    Source: ``medpy.metric.binary.hd95``; ``monai.metrics.compute_hausdorff_distance(percentile=95)``.
    """
    _check(pred, true)
    if definition not in DEFINITIONS:
        raise ValueError(f"definition={definition!r} is not one of {', '.join(DEFINITIONS)}.")
    _check_empty(empty)
    distances = _both_ways(pred, true)
    if distances is None:
        return _without_outline(pred, empty)
    if definition == "pooled":
        return float(np.percentile(np.concatenate(distances), 95))
    return float(max(np.percentile(values, 95) for values in distances))


def asd(pred: np.ndarray, true: np.ndarray, *, empty: Empty = "100") -> float:
    """Compute the average distance of the predicted outline to the true one (one direction, as medpy's ``asd``).

    Args:
        pred: Boolean ``[h, w]``.
        true: Boolean ``[h, w]``.
        empty: Distance if a mask is empty: ``"100"``, ``"nan"`` or ``"diagonal"``.

    Returns:
        Pixels; 0 is equal.

    Raises:
        ValueError: If a shape, dtype or name does not fit.

    Source: ``medpy.metric.binary.asd``.
    """
    _check(pred, true)
    _check_empty(empty)
    distances = _both_ways(pred, true)
    return _without_outline(pred, empty) if distances is None else float(np.mean(distances[0]))


def scores(pred: np.ndarray, true: np.ndarray, *, definition: Definition = "pooled", empty: Empty = "100") -> Scores:
    """Compute Dice, HD95 and ASD of one mask."""
    return Scores(dice(pred, true), hd95(pred, true, definition=definition, empty=empty), asd(pred, true, empty=empty))


def clean(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a mask (8-connected), with its holes filled.

    Args:
        mask: Boolean ``[h, w]``.

    Returns:
        Boolean ``[h, w]``; of equally large components the topmost. Empty stays empty.

    Source: github.com/JierunChen/TVConv (609d4bf), od_oc_segmentation/utils/Utils.py.
    """
    parts, count = ndimage.label(mask, EIGHT_CONNECTED)
    if count > 1:
        mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(mask)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask with a 4-neighbor outside; the image's border counts as outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _both_ways(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the distances of each mask's outline pixels to the other outline; ``None`` if a mask is empty."""
    if not (pred.any() and true.any()):
        return None
    outlines = _outline(pred), _outline(true)
    to_pred, to_true = (ndimage.distance_transform_edt(~outline) for outline in outlines)
    return to_true[outlines[0]], to_pred[outlines[1]]


def _check_empty(empty: Empty) -> None:
    if empty not in EMPTY:
        raise ValueError(f"empty={empty!r} is not one of {', '.join(EMPTY)}.")


def _without_outline(mask: np.ndarray, empty: Empty) -> float:
    return {"100": 100.0, "nan": float("nan"), "diagonal": float(np.hypot(*mask.shape))}[empty]


def _check(pred: np.ndarray, true: np.ndarray) -> None:
    for name, mask in (("pred", pred), ("true", true)):
        if mask.ndim != 2 or mask.dtype != bool:
            raise ValueError(f"{name} is {mask.dtype} {mask.shape}; it must be a boolean mask [h, w].")
    if pred.shape != true.shape:
        raise ValueError(f"pred is {pred.shape}, but true is {true.shape}; bring one to the other's size.")
