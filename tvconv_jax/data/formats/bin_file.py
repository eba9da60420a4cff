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

from tvconv_jax.data.formats.pairs import in_order
from tvconv_jax.data.formats.plain_pickle import Array, Refused, kind_of, load
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_bytes
from tvconv_jax.utils.signatures import PICKLE, TEXT, describe

# Names under which projects keep the two parts.
PICTURES, FLAGS = (
    ("bins", "images", "imgs", "pictures"),
    ("issame", "issame_list", "is_same", "same", "labels", "flags"),
)
EXPECTED = "it must be (pictures, flags), two encoded pictures for each flag"


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


def is_bin(path: Path) -> bool:
    """Whether a file is a verification ``.bin`` by its name, in any case."""
    return path.suffix.lower() == ".bin"


def read_bin(path: Path) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """Read a verification ``.bin``.

    Args:
        path: The file. It holds pictures and flags, as a pair or under names such as ``bins`` and ``issame``.

    Returns:
        ``2 n`` pictures, pair after pair, each encoded (bytes) or raw (``uint8 [h, w, 3]``); ``bool [n]``, whether a
        pair shows one person.

    Raises:
        UserError: If the file is missing or damaged, holds something else, or names anything but numpy arrays.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a verification .bin.") from None
    try:
        pictures, flags = _parts(_loaded(data))
        same = _flags(flags)
        images = _pictures(pictures, len(data))
    except ValueError as error:
        raise UserError(f"{path} is not a verification .bin: {error}.") from None
    if len(images) != 2 * len(same):
        raise UserError(
            f"{path} holds {len(images)} pictures and {len(same)} flags; each flag belongs to two pictures."
        )
    return images, same


def _loaded(data: bytes) -> Any:
    what = describe(data)
    if what and what not in (PICKLE, TEXT):  # a pickle of Python 2 may be text
        raise ValueError(f"it is {what}; name the file that face recognition projects call a verification .bin")
    try:
        return load(data)
    except Refused as error:
        raise ValueError(f"it holds {error}. Nothing of it was executed") from None
    except ValueError as error:
        raise ValueError(f"it is {TEXT}" if what == TEXT else f"it holds {error}; copy or download it again") from None


def _parts(value: Any) -> tuple[Any, Any]:
    """Pictures and flags."""
    if isinstance(value, dict):
        named = {key.decode("latin1") if isinstance(key, bytes) else str(key): part for key, part in value.items()}
        found = [[named[name] for name in names if name in named] for names in (PICTURES, FLAGS)]
        if all(len(parts) == 1 for parts in found):
            return found[0][0], found[1][0]
        raise ValueError(f"{EXPECTED}, or a dictionary with one of {', '.join(PICTURES)} and one of {', '.join(FLAGS)}")
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        what = f"{kind_of(value)} of {len(value)}" if isinstance(value, (list, tuple)) else kind_of(value)
        raise ValueError(f"it holds {what}; {EXPECTED}")
    return value[0], value[1]


def _flags(flags: Any) -> np.ndarray:
    if isinstance(flags, Array) and flags.array is not None and flags.array.size == max(flags.array.shape, default=0):
        flags = flags.array.ravel().tolist()  # [n], or one row or column
    if not isinstance(flags, (list, tuple)):
        raise ValueError(f"its flags are {kind_of(flags)}; {EXPECTED}")
    for flag in flags:
        if not isinstance(flag, (bool, int, float)) or flag not in (0, 1):
            raise ValueError(f"its flags are not all True or False, or 1 or 0, but one is {_shown(flag)}; {EXPECTED}")
    return np.array(flags, bool)


def _shown(flag: Any) -> str:
    return f"{flag:.6g}" if isinstance(flag, float) or (isinstance(flag, int) and abs(flag) < 10**9) else kind_of(flag)


def _pictures(pictures: Any, room: int) -> list[bytes | np.ndarray]:
    """All pictures; a picture of several pairs may stand in the file once, and is then one object here too.

    Different ones have bytes of their own in the file, so together they are no larger than it.
    """
    if isinstance(pictures, Array) and pictures.array is not None and _is_raw(pictures.array, stacked=True):
        return list(pictures.array)
    if not isinstance(pictures, (list, tuple)):
        raise ValueError(f"its pictures are {kind_of(pictures)}; {EXPECTED}")
    known: dict[int, bytes | np.ndarray] = {}
    for picture in pictures:
        if id(picture) not in known:
            image = known[id(picture)] = _picture(picture)
            room -= image.nbytes if isinstance(image, np.ndarray) else len(image)
        if room < 0:
            raise ValueError("its pictures are larger than the file")
    return [known[id(picture)] for picture in pictures]


def _is_raw(array: np.ndarray, *, stacked: bool = False) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 + stacked and array.shape[-1] == 3 and array.size > 0


def _picture(picture: Any) -> bytes | np.ndarray:
    """Encoded bytes, which also come as uint8 ``[n]`` or ``[n, 1]``; or a raw picture."""
    if isinstance(picture, Array) and picture.array is not None:
        array = picture.array
        if _is_raw(array):
            return array
        if array.dtype == np.uint8 and array.size and max(array.shape) == array.size:
            return array.tobytes()
        raise ValueError(
            f"a picture is an array {array.dtype} {list(array.shape)}, which is neither encoded bytes, uint8 [n], nor "
            f"uint8 [h, w, 3]"
        )
    if not isinstance(picture, (bytes, bytearray)):
        raise ValueError(f"a picture is {kind_of(picture)}; {EXPECTED}")
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
