"""Classes of a user's masks: named with their values or colors in ``classes.json``, or counted in the masks.

``{"background": 0, "bolt": 128}`` names values: of gray of 8 or 16 bits, or numbers of a palette. ``{"road":
"#ff0000"}`` names colors; a number beside a color is that gray. The pixels of ``"ignore"`` belong to no class: neither
loss nor scores count them. The class called ``"background"`` is left out of means. Without the file, every value is a
class ``class_0``, ``class_1``, ..., and 0 or black is the background.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, MaskPixels, mask_pixels
from tvconv_jax.data.listing import printable
from tvconv_jax.utils.errors import UserError

FILE = "classes.json"
EXAMPLE = '{"background": 0, "bolt": 128}'
IGNORE, UNKNOWN = 255, 254  # labels of pixels without a class, and of pixels of another value than the classes'
MAX_CLASSES = 254
MAX_COUNTED = 64  # classes without a file; more values come from saving with loss, or from smooth edges
SHOWN = 5  # values in a message
FEW = 8  # counted values of gray; more of them must be evenly spaced
LOSSY = "so many come from saving with loss or from smooth (antialiased) edges"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


class MaskError(ImageError):
    """A mask of unknown values; the message continues after the file's name."""


class ValueCounts(NamedTuple):
    """The different pixels of a mask, and how many there are of each."""

    pixels: MaskPixels  # arrays [k]
    counts: np.ndarray  # int64 [k]


class MaskClasses(NamedTuple):
    """Classes of masks in the order of their labels."""

    names: tuple[str, ...]
    codes: tuple[int, ...]  # the value of each class, or its color as 0xRRGGBB
    colored: bool  # whether the codes are colors
    ignore: int | None = None  # the code of pixels without a class

    @property
    def foreground(self) -> list[int]:
        """Labels of all classes but the background."""
        return [label for label, name in enumerate(self.names) if label != self.background]

    @property
    def values(self) -> list[int | str]:
        """Values or colors ``"#rrggbb"`` of the classes, as ``classes.json`` has them."""
        return [show(code, colored=True) if self.colored else code for code in self.codes]

    @property
    def background(self) -> int | None:
        """Label of the background: the class of that name; of counted classes, that of 0 or black."""
        lower = [name.lower() for name in self.names]
        if "background" in lower:
            return lower.index("background")
        return self.codes.index(0) if self.names == _counted(len(self.names)) and 0 in self.codes else None

    def labels(self, pixels: MaskPixels) -> np.ndarray:
        """Return the label of every pixel, ``uint8`` of any shape: :data:`IGNORE` without a class.

        Raises:
            MaskError: If a pixel has another value or color than the classes.
        """
        candidates = [pixels.colors if self.colored else pixels.values]
        if not self.colored and (pixels.palette or pixels.values is None):  # the grays may be the values
            candidates.append(np.where(_gray(pixels.colors), pixels.colors & 0xFF, -1))
        found = [self._labels(codes) for codes in candidates if codes is not None]
        for labels in found:
            if not np.any(labels == UNKNOWN):
                return labels
        raise MaskError(self._unknown(pixels, found[0] == UNKNOWN if found else np.array(True)))

    def _labels(self, codes: np.ndarray) -> np.ndarray:
        known = np.array([*self.codes, *([] if self.ignore is None else [self.ignore])])
        label_of = np.array([*range(len(self.codes)), IGNORE], np.uint8)
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        return np.where(known[order][place] == codes, label_of[order][place], np.uint8(UNKNOWN))

    def _unknown(self, pixels: MaskPixels, unknown: np.ndarray) -> str:
        color = pixels.values is None or (self.colored and pixels.colors is not None)
        codes = pixels.colors if color else pixels.values
        wrong = np.unique(codes[np.broadcast_to(unknown, codes.shape)]).tolist()
        shown = ", ".join(show(code, colored=color) for code in wrong[:SHOWN]) + (", ..." if wrong[SHOWN:] else "")
        kind, lossy = ("colors" if color else "values"), f"; {LOSSY}" if wrong[SHOWN:] else ""
        return f"holds the {kind} {shown}, which are not in the set's classes ({self.described()}){lossy}"

    def described(self) -> str:
        """Return names and codes, as ``background 0, bolt 128``."""
        known = [f"{printable(n)} {show(c, colored=self.colored)}" for n, c in zip(self.names, self.codes, strict=True)]
        known += [] if self.ignore is None else [f"ignore {show(self.ignore, colored=self.colored)}"]
        return ", ".join(known[:MAX_COUNTED])


def show(code: int, *, colored: bool) -> str:
    """Return a value as a number, a color as ``#rrggbb``."""
    return f"#{code:06x}" if colored else str(code)


def count_values(pixels: MaskPixels) -> ValueCounts:
    """Return the different pixels of a mask."""
    first = pixels.colors if pixels.values is None else pixels.values
    joint = first.astype(np.int64) << 24 | (pixels.colors if pixels.palette else 0)
    codes, counts = np.unique(joint, return_counts=True)
    first, colors = codes >> 24, codes & 0xFFFFFF
    if pixels.values is None:
        return ValueCounts(MaskPixels(None, first, palette=False), counts)
    if not pixels.palette:
        colors = None if pixels.colors is None else first * 0x010101
    return ValueCounts(MaskPixels(first, colors, pixels.palette), counts)


def label_counts(image: bytes) -> dict[str, int]:
    """Count the pixels of each value of any image: a number in gray, ``#rrggbb`` in color, both with a palette.

    Raises:
        ImageError: If it cannot be decoded.
    """
    (values, colors, palette), counts = count_values(mask_pixels(image, strict=False))
    names = [show(code, colored=values is None) for code in (colors if values is None else values).tolist()]
    if palette:
        names = [f"{name} ({show(color, colored=True)})" for name, color in zip(names, colors.tolist(), strict=True)]
    return dict(zip(names, counts.tolist(), strict=True))


def count_classes(found: Iterable[ValueCounts], root: Path) -> MaskClasses:
    """Return a class for every value of the masks, or for every color if one of them is in color.

    Raises:
        UserError: If there are more than :data:`MAX_COUNTED`, or one alone.
    """
    found = list(found)
    colored = any(one.pixels.values is None for one in found)
    if colored and any(one.pixels.colors is None for one in found):
        raise UserError(f"{root}: some masks are in color, others in gray of 16 bits; save all of them in one way.")
    if not colored:
        _check_palettes(found, root)
    codes = sorted({code for one in found for code in (one.pixels.colors if colored else one.pixels.values).tolist()})
    check_count(len(codes), f"{root}: its masks hold")
    _check_spaced(codes, root, colored=colored)
    if len(codes) < 2:
        values = " ".join(show(code, colored=colored) for code in codes)
        raise UserError(f"{root}: its masks hold one value alone ({values}); training needs two classes or more.")
    return MaskClasses(_counted(len(codes)), tuple(codes), colored)


def _check_palettes(found: Sequence[ValueCounts], root: Path) -> None:
    """Raise a ``UserError`` if a number has another color in another palette: then the colors may be the classes."""
    colors: dict[int, int] = {}
    for pixels in (one.pixels for one in found if one.pixels.palette):
        for number, color in zip(pixels.values.tolist(), pixels.colors.tolist(), strict=True):
            if colors.setdefault(number, color) != color:
                first, second = (show(code, colored=True) for code in (colors[number], color))
                raise UserError(
                    f"{root}: number {number} is {first} in the palette of one mask and {second} in another's; name "
                    f'the classes in {FILE}, by number, as {EXAMPLE}, or by color, as {{"bolt": "{first}", ...}}.'
                )


def _check_spaced(codes: Sequence[int], root: Path, *, colored: bool) -> None:
    """Raise a ``UserError`` if values of gray are many and scattered, as smooth edges have them; 255 may be apart."""
    steps = {after - before for before, after in zip(codes, codes[1:], strict=False) if after != 255}
    if not colored and len(codes) > FEW and len(steps) > 1:
        shown = ", ".join(show(code, colored=False) for code in codes[:FEW])
        raise UserError(
            f"{root}: its masks hold {len(codes)} different values, unevenly spaced ({shown}, ...); {LOSSY}: save "
            f"masks without loss and smoothing, or name the classes in {FILE}, as {EXAMPLE}."
        )


def check_count(count: int, subject: str) -> None:
    """Raise a ``UserError`` if there are more different values than classes can be counted."""
    if count > MAX_COUNTED:
        raise UserError(
            f"{subject} {count} different values, more than the {MAX_COUNTED} classes that are counted; {LOSSY}: save "
            f"masks without loss, as PNG, or name the classes in {FILE}, as {EXAMPLE}."
        )


def _counted(count: int) -> tuple[str, ...]:
    return tuple(f"class_{label}" for label in range(count))


def _gray(colors: np.ndarray) -> np.ndarray:
    return (colors >> 16 == colors & 0xFF) & ((colors >> 8) & 0xFF == colors & 0xFF)


def read_classes(path: Path) -> MaskClasses:
    """Read ``classes.json``.

    Raises:
        UserError: If it is not JSON, not an object of names and values or colors, or two of them are equal.
    """
    fix = f"write an object of names and values or colors, as {EXAMPLE}"
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error).splitlines()[0]}); {fix}.") from None
    if not isinstance(pairs, _Pairs) or not all(name.strip() and name.isprintable() for name, _ in pairs):
        raise UserError(f"{path} is not an object with names; {fix}.")
    pairs = [("ignore" if name.casefold() == "ignore" else name, value) for name, value in pairs]
    _check_number(path, sum(name != "ignore" for name, _ in pairs))
    codes = [_code(path, name, value) for name, value in pairs]
    colored = any(isinstance(value, str) for _, value in pairs)
    if colored:
        codes = [_as_color(path, name, value, code) for (name, value), code in zip(pairs, codes, strict=True)]
    _check_twice(path, [name for name, _ in pairs], "name")
    _check_twice(path, [show(code, colored=colored) for code in codes], "color" if colored else "value")
    known = {name: code for (name, _), code in zip(pairs, codes, strict=True)}
    ignore = known.pop("ignore", None)
    return MaskClasses(tuple(known), tuple(known.values()), colored, ignore)


class _Pairs(list):
    """The pairs of a JSON object, which may have a name twice."""


def _check_number(path: Path, classes: int) -> None:
    if not 2 <= classes <= MAX_CLASSES:
        raise UserError(f"{path} names {classes} classes beside ignore; name 2 to {MAX_CLASSES}, as {EXAMPLE}.")


def _code(path: Path, name: str, value: Any) -> int:
    if isinstance(value, str) and _COLOR.fullmatch(value):
        return int(value[1:], 16)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 16:
        return value
    shown = json.dumps(value)[:40]
    raise UserError(f'{path}: {printable(name)} is {shown}; it must be a value from 0 to 65535 or a color "#rrggbb".')


def _as_color(path: Path, name: str, value: Any, code: int) -> int:
    if isinstance(value, str):
        return code
    if code > 255:
        raise UserError(f"{path}: {printable(name)} is {code}; beside colors, a number is a gray from 0 to 255.")
    return code * 0x010101


def _check_twice(path: Path, items: Sequence[str], kind: str) -> None:
    if twice := [item for item in items if items.count(item) > 1]:
        raise UserError(f"{path} has the {kind} {printable(twice[0])} twice; give every class its own.")
