"""Masks of optic disc and cup: their decoding to 0 (cup), 128 (rim) and 255 (outside), and the checks of a set.

A mask is an image in gray, saved without loss: 1, 8 or 16 bits, a gray palette, or RGB of equal channels; alpha is
dropped. Values above 255 are those of 16 bits, 257 times the value of 8.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, gray
from tvconv_jax.data.synthetic.fundus import BACKGROUND, CUP, RIM
from tvconv_jax.utils.errors import UserError

MEANINGS = {CUP: "0 (cup)", RIM: "128 (rim)", BACKGROUND: "255 (outside)"}
RULE = "a mask holds 0 (cup), 128 (rim) and 255 (outside) only"
SHOWN = 5  # values in a message


class MaskError(ImageError):
    """A mask of other values; the message continues after the file's name."""


class MaskFacts(NamedTuple):
    """Facts on a mask."""

    name: str  # of its file
    values: frozenset[int]
    edge: float  # share of the pixels at the image's edge that are cup
    contacts: tuple[int, int]  # pairs of neighboring pixels of cup and outside, and of rim and outside


def read_mask(image: bytes) -> np.ndarray:
    """Decode a mask to ``uint8 [h, w]``; the values are not checked but for those of 16 bits.

    Raises:
        ImageError: If it cannot be decoded, is in color or was saved with loss.
        MaskError: If it holds values of 16 bits that are not 257 times one of 8.
    """
    mask = gray(image)
    if mask.dtype == np.uint8:
        return mask
    if mask.max() > 255:  # below, values of 8 bits stand in a file of 16
        _check_values(np.unique(mask[mask % 257 != 0]).tolist())
        mask //= 257
    return mask.astype(np.uint8)


def facts(name: str, mask: np.ndarray) -> MaskFacts:
    """Return the facts on a mask ``uint8 [h, w]``; a ``MaskError`` if it holds other values than the three."""
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    _check_values([value for value in values if value not in MEANINGS])
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    contacts = [_contacts(mask == value, mask == BACKGROUND) for value in (CUP, RIM)]
    return MaskFacts(name, frozenset(values), float(np.mean(edge == CUP)), tuple(contacts))


def _contacts(one: np.ndarray, other: np.ndarray) -> int:
    across = (one[:, 1:] & other[:, :-1]) | (one[:, :-1] & other[:, 1:])
    down = (one[1:] & other[:-1]) | (one[:-1] & other[1:])
    return int(across.sum() + down.sum())


def _check_values(wrong: Sequence[int]) -> None:
    if wrong:
        shown = ", ".join(map(str, wrong[:SHOWN])) + (", ..." if len(wrong) > SHOWN else "")
        lossy = " Values between come from saving with loss or from resizing with interpolation." * (len(wrong) > SHOWN)
        raise MaskError(f"holds the values {shown}; {RULE}.{lossy} Write the mask again with these")


def check_part(part: str, masks: Sequence[MaskFacts]) -> None:
    """Raise a ``UserError`` unless the masks of a part, as ``Domain1/train``, can have the meaning of their values.

    An eye may lack a cup (a small disc) or a rim (a disc that is all cup), but nothing can be learned of a value that
    all masks of a part lack. Images are crops round the disc, so a single mask of one value is an error, and so is one
    with cup along the image's edge. Cups touch the outside in a few eyes; if they do so more than the rims, the two
    values are swapped.
    """
    held, count = frozenset.union(*(mask.values for mask in masks)), len(masks)
    if missing := [text for value, text in MEANINGS.items() if value not in held]:
        raise UserError(
            f"{part}: none of its {count} masks holds {' or '.join(missing)}, only "
            f"{' and '.join(MEANINGS[value] for value in sorted(held))} ({masks[0].name}); a mask holds 0 (cup), 128 "
            f"(rim) and 255 (outside). Write the masks again with these."
        )
    if single := [mask for mask in masks if len(mask.values) == 1]:
        raise UserError(
            f"{part}: {len(single)} of its {count} masks hold one value alone ({single[0].name}: "
            f"{MEANINGS[min(single[0].values)]} everywhere); an image round the disc shows disc and outside. Correct "
            f"or remove them, and their images."
        )
    if inverted := [mask for mask in masks if mask.edge > 0.5]:
        raise UserError(
            f"{part}: {len(inverted)} of its {count} masks are 0 (cup) along the image's edge ({inverted[0].name}), "
            f"as inverted masks are; {RULE}. Write them again with these."
        )
    cup, rim = np.sum([mask.contacts for mask in masks], axis=0)
    if cup > rim:
        raise UserError(
            f"{part}: in its {count} masks 0 (cup) lies round 128 (rim) ({masks[0].name}), so the two seem to be "
            f"swapped; {RULE}. Write them again with these."
        )
