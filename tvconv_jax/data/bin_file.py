"""Verification sets as face recognition passes them around: a pickled ``.bin``, read without executing anything.

The file is a pickle of ``([2 n pictures], [n flags])``, pictures as encoded bytes or uint8 arrays, written by Python
2 or 3.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tvconv_jax.data.pairs import in_order
from tvconv_jax.data.plain_pickle import Array, load
from tvconv_jax.data.records import Record
from tvconv_jax.errors import UserError
from tvconv_jax.files import write_bytes


class BinFaces:
    """The pictures of a verification ``.bin``, and the pairs of them.

    Args:
        path: The file; see :func:`read_bin`.

    Attributes:
        pairs: Which pictures belong together.

    Raises:
        UserError: As :func:`read_bin`, or if the pairs cannot be cut into ten folds.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        images, same = read_bin(path)
        encoded = {id(image): image if isinstance(image, bytes) else _encoded(image) for image in images}
        self._images = [encoded[id(image)] for image in images]
        self.pairs = in_order(same, str(path))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return Record(image=self._images[int(index)], label=0, name=self.name(index))

    def name(self, index: int) -> str:
        """What a picture is called in messages: its file's name and its place."""
        return f"{self.path.name}:{int(index)}"


def _encoded(image: np.ndarray) -> bytes:
    """A raw picture as PNG, which loses nothing."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def read_bin(path: Path) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """Reads a verification ``.bin``.

    Args:
        path: The file.

    Returns:
        ``2 n`` pictures, pair after pair, each encoded (bytes) or raw (``uint8 [h, w, 3]``); ``bool [n]``, whether a
        pair shows one person.

    Raises:
        UserError: If the file is missing or damaged, holds something else, or names anything but numpy arrays.
    """
    try:
        data = Path(path).read_bytes()
        value = load(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a verification .bin.") from None
    except ValueError as error:
        raise UserError(f"{path} is no verification .bin: it holds {error}. Nothing of it was executed.") from None
    try:
        pictures, flags = value
        same = _flags(flags)
        images = _pictures(pictures, len(data))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no verification .bin: {error}; it must be (pictures, flags).") from None
    if len(images) != 2 * len(same):
        raise UserError(
            f"{path} holds {len(images)} pictures and {len(same)} flags; each flag belongs to two pictures."
        )
    return images, same


def _flags(flags: Any) -> np.ndarray:
    if isinstance(flags, Array):
        flags = flags.array.tolist() if flags.array is not None else None
    if not isinstance(flags, (list, tuple)) or not all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
        raise ValueError("its flags are not all True or False")
    return np.array(flags, bool)


def _pictures(pictures: Any, room: int) -> list[bytes | np.ndarray]:
    """All pictures; a picture of several pairs may stand in the file once, and is then one object here too.

    Different ones have bytes of their own in the file, so together they are no larger than it.
    """
    known: dict[int, bytes | np.ndarray] = {}
    for picture in pictures:
        if id(picture) not in known:
            image = known[id(picture)] = _picture(picture)
            room -= image.nbytes if isinstance(image, np.ndarray) else len(image)
        if room < 0:
            raise ValueError("its pictures are larger than the file")
    return [known[id(picture)] for picture in pictures]


def _picture(picture: Any) -> bytes | np.ndarray:
    """Encoded bytes, which also come as uint8 ``[n]`` or ``[n, 1]``; or a raw picture."""
    if isinstance(picture, Array):
        array = picture.array
        if array is not None and array.dtype == np.uint8:
            if array.ndim == 3 and array.shape[2] == 3 and array.size:
                return array
            if array.size and max(array.shape) == array.size:
                return array.tobytes()
        raise ValueError("a picture is an array that is neither encoded bytes, uint8 [n], nor uint8 [h, w, 3]")
    if not isinstance(picture, (bytes, bytearray)):
        raise ValueError(f"a picture is a {type(picture).__name__}")
    return bytes(picture)


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Writes a verification ``.bin`` that MXNet's and PyTorch's face projects read, whole or not at all.

    Args:
        path: The file; protocol 4, which Python 3 reads.
        images: ``2 n`` encoded pictures, pair after pair.
        same: ``n`` flags.

    Raises:
        ValueError: If there are not two pictures for each flag.
        UserError: If the file exists.
    """
    if len(images) != 2 * len(same):
        raise ValueError(f"{len(images)} images for {len(same)} flags; each flag needs two.")
    if Path(path).exists():
        raise UserError(f"{path} exists and is not written over; choose another name or remove it.")
    content = [bytes(image) for image in images], [bool(flag) for flag in same]
    write_bytes(Path(path), pickle.dumps(content, protocol=4))
