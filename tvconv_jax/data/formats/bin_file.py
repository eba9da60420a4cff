"""Verification ``.bin`` files of face recognition projects, read without executing anything.

The file is a pickle of ``([2 n images], [n flags])``, images as encoded bytes or uint8 arrays, of Python 2 or 3.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.data.decoder import encode
from tvconv_jax.data.formats.numpy_pickle import Array, Refused, kind_of, load
from tvconv_jax.data.formats.pairs import in_order
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_absent, write_bytes
from tvconv_jax.utils.signatures import PICKLE, TEXT, describe

# Names under which projects keep the two parts.
IMAGES = ("bins", "images", "imgs", "pictures")
FLAGS = ("issame", "issame_list", "is_same", "same", "labels", "flags")
EXPECTED = "it must be (images, flags), two encoded images for each flag"


class BinFaces:
    """The images of a verification ``.bin``, and its ``pairs``.

    Raises:
        UserError: As :func:`read_bin`, or if the pairs cannot be split into ten folds.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        images, same = read_bin(path)
        encoded = {id(image): image if isinstance(image, bytes) else encode(image, "PNG") for image in images}
        self._images = [encoded[id(image)] for image in images]
        self.pairs = in_order(same, str(path))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._images[int(index)], label=0, name=self.name(index))

    def name(self, index: int) -> str:
        """Return an image's name in messages: the file's name and the image's place."""
        return f"{self.path.name}:{int(index)}"


def is_bin(path: Path) -> bool:
    """Return whether a file is a verification ``.bin`` by its name, in any case."""
    return path.suffix.lower() == ".bin"


def read_bin(path: Path) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """Read a verification ``.bin``: images and flags, as a pair or under names such as ``bins`` and ``issame``.

    Returns:
        ``2 n`` images, pair after pair, each encoded (bytes) or raw (``uint8 [h, w, 3]``); ``bool [n]``, whether a
        pair shows one identity.

    Raises:
        UserError: If the file is missing or damaged, holds something else, or names anything but numpy arrays.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a verification .bin.") from None
    try:
        images, flags = _split(_load(data))
        same, images = _read_flags(flags), _read_images(images, len(data))
    except ValueError as error:
        raise UserError(f"{path} is not a verification .bin: {error}.") from None
    if len(images) != 2 * len(same):
        raise UserError(f"{path} holds {len(images)} images and {len(same)} flags; each flag belongs to two images.")
    return images, same


def _load(data: bytes) -> Any:
    what = describe(data)
    if what and what not in (PICKLE, TEXT):  # a pickle of Python 2 may be text
        raise ValueError(f"it is {what}; name the file that face recognition projects call a verification .bin")
    try:
        return load(data)
    except Refused as error:
        raise ValueError(f"it holds {error}. Nothing of it was executed") from None
    except ValueError as error:
        raise ValueError(f"it is {TEXT}" if what == TEXT else f"it holds {error}; copy or download it again") from None


def _split(value: Any) -> Any:
    if isinstance(value, dict):
        named = {key.decode("latin1") if isinstance(key, bytes) else str(key): part for key, part in value.items()}
        found = [[named[name] for name in names if name in named] for names in (IMAGES, FLAGS)]
        if all(len(parts) == 1 for parts in found):
            return [part for (part,) in found]
        raise ValueError(f"{EXPECTED}, or a dictionary with one of {', '.join(IMAGES)} and one of {', '.join(FLAGS)}")
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        what = f"{kind_of(value)} of {len(value)}" if isinstance(value, (list, tuple)) else kind_of(value)
        raise ValueError(f"it holds {what}; {EXPECTED}")
    return value


def _read_flags(flags: Any) -> np.ndarray:
    if isinstance(flags, Array) and flags.array is not None and flags.array.size == max(flags.array.shape, default=0):
        flags = flags.array.ravel().tolist()  # [n], or one row or column
    if not isinstance(flags, (list, tuple)):
        raise ValueError(f"its flags are {kind_of(flags)}; {EXPECTED}")
    for flag in flags:
        if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
            number = isinstance(flag, float) or (isinstance(flag, int) and abs(flag) < 10**9)
            shown = f"{flag:.6g}" if number else kind_of(flag)
            raise ValueError(f"its flags are not all True or False, or 1 or 0, but one is {shown}; {EXPECTED}")
    return np.array(flags, bool)


def _read_images(images: Any, room: int) -> list[bytes | np.ndarray]:
    # An image of several pairs may stand in the file once, and is one object here too. Different images have bytes of
    # their own in the file, so together they are at most as large as it, ``room`` bytes.
    if isinstance(images, Array) and images.array is not None and _is_raw(images.array, stacked=True):
        return list(images.array)
    if not isinstance(images, (list, tuple)):
        raise ValueError(f"its images are {kind_of(images)}; {EXPECTED}")
    known: dict[int, bytes | np.ndarray] = {}
    for value in images:
        if id(value) not in known:
            image = known[id(value)] = _read_image(value)
            room -= image.nbytes if isinstance(image, np.ndarray) else len(image)
        if room < 0:
            raise ValueError("its images are larger than the file")
    return [known[id(value)] for value in images]


def _is_raw(array: np.ndarray, *, stacked: bool = False) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 + stacked and array.shape[-1] == 3 and array.size > 0


def _read_image(value: Any) -> bytes | np.ndarray:
    """Return encoded bytes, which also come as uint8 ``[n]`` or ``[n, 1]``, or a raw image."""
    if isinstance(value, Array) and value.array is not None:
        array = value.array
        if _is_raw(array):
            return array
        if array.dtype == np.uint8 and array.size and max(array.shape) == array.size:
            return array.tobytes()
        raise ValueError(
            f"an image is an array {array.dtype} {list(array.shape)}, which is neither encoded bytes, uint8 [n], nor "
            f"uint8 [h, w, 3]"
        )
    if not isinstance(value, (bytes, bytearray)):
        raise ValueError(f"an image is {kind_of(value)}; {EXPECTED}")
    return bytes(value)


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write a verification ``.bin``, as :func:`read_bin` describes it, whole or not at all; protocol 4 of pickle.

    Raises:
        ValueError: If there are not two images for each flag.
        UserError: If the file exists.
    """
    if len(images) != 2 * len(same):
        raise ValueError(f"{len(images)} images for {len(same)} flags; each flag needs two.")
    check_absent(path)
    content = [bytes(image) for image in images], [bool(flag) for flag in same]
    write_bytes(Path(path), pickle.dumps(content, protocol=4))
