"""Images decoded once, at the model's size, into one file of the cache that processes share."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.data.cache import digest, fill, stamp
from tvconv_jax.data.decoder import READING, ImageError, pixels, read_image, resize
from tvconv_jax.data.source import Record
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json, replacing, write_json
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.sizes import describe_size, height_width

# Files of a folder in the cache; the summary or the labels come last and mark it as complete.
IMAGES, SUMMARY, LABELS = "images.npy", "summary.json", "labels.npy"


class Decoded(NamedTuple):
    """Files that were decoded."""

    pixels: Path  # uint8 [n, h, w, 3], zeros for those that cannot be decoded
    bad: dict[int, str]  # errors by number of the file
    sizes: dict[str, int]  # number of files by their own size, as "48x64"


class DecodedImages:
    """Images of a file in the cache, each with a label and a name; a :class:`~tvconv_jax.data.source.Source`."""

    def __init__(self, file: Path, rows: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        self._key = file, np.asarray(rows), np.asarray(labels, np.int32), list(names)
        self._images = open_array(file, 4)

    def __reduce__(self) -> tuple:  # worker processes map the file again; as an array it would be copied to each
        return DecodedImages, self._key

    def __len__(self) -> int:
        return len(self._key[1])

    def __getitem__(self, index: int) -> Record:
        image = np.array(self._images[self._key[1][index]])
        return Record(image=image, label=int(self.labels[index]), name=self.name(index))

    @property
    def labels(self) -> np.ndarray:
        """Labels, ``int32 [n]``."""
        return self._key[2]

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return self._key[3]

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._key[3][index]

    def select(self, indices: np.ndarray) -> "DecodedImages":
        """Return some of the images, in this order."""
        file, rows, labels, names = self._key
        return DecodedImages(file, rows[indices], labels[indices], [names[index] for index in indices])


def open_array(file: Path, axes: int) -> np.ndarray:
    """Return images ``uint8 [n, h, w, 3]`` (4 axes) or masks ``[n, h, w]`` of a file, which is read when it is used.

    Raises:
        UserError: If it is damaged, or holds something else.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.ndim != axes or array.shape[3:] not in ((), (3,)) or array.dtype != np.uint8:
            raise ValueError("neither images nor masks")
        return array
    except (OSError, ValueError):
        raise UserError(f"{file} is damaged or cannot be read; remove {file.parent}, and it is made again.") from None


def decode_files(files: Sequence[Path], image_size: Any, cache: Path) -> Decoded:
    """Decode and resize files, unless the cache holds their current state; ``image_size`` is height and width.

    Raises:
        UserError: If the cache cannot be written.
        TrainingError: If its disk is full.
    """
    height, width = height_width(image_size)
    key = digest(READING, f"{height}x{width}", *map(stamp, files))
    folder = cache / f"pixels-{key}"
    fill(folder, SUMMARY, lambda: _write(folder, files, height, width))
    summary = read_json(folder / SUMMARY, f"remove {folder}")
    return Decoded(folder / IMAGES, {int(row): error for row, error in summary["bad"].items()}, summary["sizes"])


def _write(folder: Path, files: Sequence[Path], height: int, width: int) -> None:
    bad, sizes = {}, Counter()

    def images() -> Iterator[tuple[np.ndarray]]:
        for row, path in enumerate(track(files, total=len(files), text="Decoding images")):
            image = np.zeros((height, width, 3), np.uint8)
            try:
                found = pixels(read_image(path))
                image = resize(found, (height, width), Image.Resampling.BILINEAR)
                sizes[describe_size(found.shape[:2])] += 1
            except ImageError as error:
                bad[row] = str(error)
            yield (image,)

    write_arrays(folder, {IMAGES: (len(files), height, width, 3)}, images())
    write_json(folder / SUMMARY, {"bad": bad, "sizes": sizes})


def write_arrays(folder: Path, shapes: Mapping[str, tuple[int, ...]], rows: Iterable[Sequence[np.ndarray]]) -> None:
    """Write arrays ``uint8`` row by row, each whole or not at all; the first one gets its name last.

    Args:
        folder: Folder of the files.
        shapes: Shape of the whole array by name of its file.
        rows: Of each array a row, in this order.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(replacing(folder / name)) for name in shapes]
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for file, shape in zip(files, shapes.values(), strict=True):
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for row in rows:
            for file, array in zip(files, row, strict=True):
                file.write(np.ascontiguousarray(array).data)


def keep_drawn(name: str, draw: Callable[[], tuple[np.ndarray, np.ndarray]], cache: Path) -> tuple[Path, np.ndarray]:
    """Return the cache's file of images that are drawn the first time, and their labels.

    Args:
        name: Folder in the cache, another one for other images.
        draw: Returns images ``uint8 [n, h, w, 3]`` and labels ``[n]``.
        cache: The cache folder.
    """
    folder = cache / name

    def write() -> None:
        images, labels = draw()
        write_arrays(folder, {IMAGES: images.shape}, zip(images, strict=True))
        with replacing(folder / LABELS) as part:
            np.save(part, labels)

    fill(folder, LABELS, write)
    return folder / IMAGES, np.load(folder / LABELS, allow_pickle=False)
