"""Masks of optic disc and cup: how a file becomes 0 (cup), 128 (rim) and 255 (outside), and what no set may hold.

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
    """A mask of other values; the message goes on after the file's name."""


class MaskFacts(NamedTuple):
    """What a mask holds.

    Attributes:
        name: The mask's file.
        values: The values in it.
        edge: Share of the pixels at the picture's edge that are cup.
        contacts: Neighboring pixels of which one is outside and the other cup; outside and rim.
    """

    name: str
    values: frozenset[int]
    edge: float
    contacts: tuple[int, int]


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
        wrong = np.unique(mask[mask % 257 != 0])
        if wrong.size:
            raise MaskError(_wrong(wrong.tolist()))
        mask //= 257
    return mask.astype(np.uint8)


def facts(name: str, mask: np.ndarray) -> MaskFacts:
    """Look at a mask.

    Args:
        name: The mask's file.
        mask: ``uint8 [h, w]``.

    Raises:
        MaskError: If it holds other values than cup, rim and outside.
    """
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    wrong = [value for value in values if value not in MEANINGS]
    if wrong:
        raise MaskError(_wrong(wrong))
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    contacts = [_contacts(mask == value, mask == BACKGROUND) for value in (CUP, RIM)]
    return MaskFacts(name, frozenset(values), float(np.mean(edge == CUP)), tuple(contacts))


def _contacts(one: np.ndarray, other: np.ndarray) -> int:
    across = (one[:, 1:] & other[:, :-1]) | (one[:, :-1] & other[:, 1:])
    down = (one[1:] & other[:-1]) | (one[:-1] & other[1:])
    return int(across.sum() + down.sum())


def _wrong(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(values)[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
    lossy = " Values between come from saving with loss or from resizing with interpolation." * (len(values) > SHOWN)
    return f"holds the values {shown}; {RULE}.{lossy} Write the mask again with these"


def check_part(part: str, masks: Sequence[MaskFacts]) -> None:
    """Refuse the masks of a domain's part that cannot all mean what the values say.

    One eye may lack a cup (a small disc) or a rim (a disc that is all cup), so a value has to be missing in every mask
    of the part: then nothing of it can be learned, or measured. But pictures are crops round the disc, so a single
    mask of one value alone is a fault, as is one with a cup along the picture's edge. Cups touch the outside in a few
    eyes; where they do so more than the rims, the two values are swapped.

    Args:
        part: The domain and phase, as ``Domain1/train``.
        masks: Facts on all of them.

    Raises:
        UserError: If so; says how many masks, and which value.
    """
    held = frozenset.union(*(mask.values for mask in masks))
    if missing := [text for value, text in MEANINGS.items() if value not in held]:
        raise UserError(
            f"{part}: none of its {len(masks)} masks holds {' or '.join(missing)}, only "
            f"{' and '.join(MEANINGS[value] for value in sorted(held))} ({masks[0].name}); a mask holds 0 (cup), 128 "
            f"(rim) and 255 (outside). Write the masks again with these."
        )
    _check_single(part, masks)
    _check_order(part, masks)


def _check_single(part: str, masks: Sequence[MaskFacts]) -> None:
    single = [mask for mask in masks if len(mask.values) == 1]
    if single:
        held = MEANINGS[next(iter(single[0].values))]
        raise UserError(
            f"{part}: {len(single)} of its {len(masks)} masks hold one value alone ({single[0].name}: {held} "
            f"everywhere); a picture round the disc shows disc and outside. Correct or remove them, and their pictures."
        )


def _check_order(part: str, masks: Sequence[MaskFacts]) -> None:
    """From inside to outside: cup, rim, outside."""
    inverted = [mask for mask in masks if mask.edge > 0.5]
    if inverted:
        raise UserError(
            f"{part}: {len(inverted)} of its {len(masks)} masks are 0 (cup) along the picture's edge "
            f"({inverted[0].name}), as inverted masks are; {RULE}. Write them again with these."
        )
    cup, rim = np.sum([mask.contacts for mask in masks], axis=0)
    if cup > rim:
        raise UserError(
            f"{part}: in its {len(masks)} masks 0 (cup) lies round 128 (rim) ({masks[0].name}), so the two seem to be "
            f"swapped; {RULE}. Write them again with these."
        )
