"""Images with masks of a user's own: checked once, split, and decoded once at the model's size into the cache."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tvconv_jax.data import decoder
from tvconv_jax.data.cache import digest, fill, stamp
from tvconv_jax.data.decoded import open_array, write_arrays
from tvconv_jax.data.decoder import READING, ImageError, MaskPixels, mask_pixels, read_image
from tvconv_jax.data.listing import LeftOut, printable
from tvconv_jax.data.mask_classes import (
    FILE,
    MaskClasses,
    MaskError,
    ValueCounts,
    check_count,
    count_classes,
    count_values,
    read_classes,
    show,
)
from tvconv_jax.data.mask_files import MaskFile, list_pairs
from tvconv_jax.data.split import check_groups, describe_split, held_out
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_json, user_path, write_json
from tvconv_jax.utils.progress import track
from tvconv_jax.utils.sizes import describe_size
from tvconv_jax.utils.storage import one_writer, writing

IMAGES, MASKS = "image.npy", "mask.npy"  # of a folder in the cache


class MaskSet(NamedTuple):
    """A set before its images are decoded."""

    root: Path
    files: list[MaskFile]
    classes: MaskClasses
    counts: np.ndarray  # pixels of each class in each mask, int64 [n, k]
    sizes: np.ndarray  # height and width of each image, int64 [n, 2]
    test: np.ndarray  # whether an image is to test on, boolean [n]
    notes: list[str]

    def of(self, *, test: bool) -> list[MaskFile]:
        """Return the files to test on, or to train on."""
        return [file for file, chosen in zip(self.files, self.test, strict=True) if chosen == test]

    @property
    def size(self) -> tuple[int, int]:
        """Median height and width of the training images."""
        height, width = np.median(self.sizes[~self.test], axis=0)
        return int(height), int(width)

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in the pixels of the training masks that belong to one, float64 ``[k]``."""
        total = self.counts[~self.test].sum(axis=0)
        return total / total.sum()


def find_masks(
    root: str, cache: Path, *, group_pattern: str = "", test_share: float = 0.2, split_seed: int = 0
) -> MaskSet:
    """List, check and split the set of a folder.

    Args:
        root: The folder.
        cache: Folder for the facts on the masks.
        group_pattern: As :func:`tvconv_jax.data.mask_files.list_pairs` takes it.
        test_share: Share of the images to test on, where the folder has no ``train`` and ``test``.
        split_seed: Seed of that split.

    Raises:
        UserError: If the root is missing, the set is not laid out as one, an image or a mask cannot be read, they
            differ in size, a mask has unknown values, or a class is in no training mask. The message names the file.
    """
    base, left_out = _root(root), LeftOut()
    files = list_pairs(base, group_pattern, left_out)
    keys = [stamp(path) for file in files for path in file[:2]] + [stamp(path) for path in _class_file(base)]
    facts = cache / f"mask-facts-{digest(READING, *keys)}.json"
    classes, counts, sizes = _read_facts(facts) if facts.exists() else _check_all(base, files)
    if not facts.exists():
        with one_writer(facts), writing(cache, "facts on the masks"):
            found = {"classes": classes._asdict(), "counts": counts.tolist(), "sizes": sizes.tolist()}
            write_json(facts, found)
    test, notes = _split(base, files, test_share, split_seed)
    found = MaskSet(base, files, classes, counts, sizes, test, notes)
    _check_classes(found)
    return found._replace(notes=[*_class_notes(found), *notes, *left_out.notes(base)])


def _root(text: str) -> Path:
    if not text:
        raise UserError("data.root is empty; name the folder of images and masks with --config.data.root=DIR.")
    root = user_path(text).absolute()
    if not root.is_dir():
        error = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"data.root {root} {error}; name the folder of images and masks with --config.data.root=DIR.")
    return root


def _class_file(root: Path) -> list[Path]:
    """Return ``classes.json``, if there is one; raise a ``UserError`` if it lies or is named where it is not read."""
    if (root / FILE).exists():
        return [root / FILE]
    folders = root, *(root / split / kind for split in ("", "train", "test") for kind in ("", "image", "mask"))
    every = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    if strays := [path for path in every if path.name.casefold() == FILE]:
        error = "has another name or place" if strays[0].exists() else "is a dangling link"
        raise UserError(f"{strays[0]} {error}; the classes are read from {root / FILE}: move it there, or remove it.")
    return []


def _read_facts(file: Path) -> tuple[MaskClasses, np.ndarray, np.ndarray]:
    found = read_json(file, f"remove {file}")
    classes = {key: tuple(value) if isinstance(value, list) else value for key, value in found["classes"].items()}
    return MaskClasses(**classes), np.array(found["counts"], np.int64), np.array(found["sizes"], np.int64)


def _check_all(root: Path, files: Sequence[MaskFile]) -> tuple[MaskClasses, np.ndarray, np.ndarray]:
    """Decode every image and every mask; return the classes, and the pixels of each class and the size by image."""
    classes = read_classes(root / FILE) if (root / FILE).exists() else None
    found, sizes = [], []
    for file in track(files, total=len(files), text="Checking masks"):
        values, size = _check_pair(file)
        if classes is None:
            check_count(len(values.counts), f"{printable(str(file.mask))} holds")
        else:
            _labels(file, classes, values.pixels)  # at once, before all others are read
        found.append(values)
        sizes.append(size)
    classes = classes or count_classes(found, root)
    counts = np.zeros((len(files), 256), np.int64)
    for row, (file, values) in enumerate(zip(files, found, strict=True)):
        np.add.at(counts[row], _labels(file, classes, values.pixels), values.counts)
    return classes, counts[:, : len(classes.names)], np.array(sizes)


def _check_pair(file: MaskFile) -> tuple[ValueCounts, tuple[int, int]]:
    image, pixels = _decode(file)
    shape, own = image.shape[:2], next(array.shape for array in pixels[:2] if array is not None)
    if own != shape:
        sizes = "{}x{} and {}x{}".format(*shape, *own)
        raise UserError(f"{printable(str(file.image))} and its mask differ in size ({sizes}); make them agree.")
    return count_values(pixels), shape


def _decode(file: MaskFile) -> tuple[np.ndarray, MaskPixels]:
    path = file.image
    try:
        image = decoder.pixels(read_image(path))
        path = file.mask
        return image, mask_pixels(read_image(path))
    except ImageError as error:
        raise UserError(f"{printable(str(path))} cannot be read ({error}); repair or remove it.") from None


def _labels(file: MaskFile, classes: MaskClasses, pixels: MaskPixels) -> np.ndarray:
    try:
        return classes.labels(pixels)
    except MaskError as error:
        raise UserError(f"{printable(str(file.mask))} {error}; correct the mask, or {FILE}.") from None


def _split(root: Path, files: Sequence[MaskFile], share: float, seed: int) -> tuple[np.ndarray, list[str]]:
    groups = [file.group for file in files] if files[0].group else None
    if files[0].split:
        test = np.array([file.split == "test" for file in files])
        if groups is not None:
            check_groups(root, groups, test)
        return test, []
    test = held_out(np.zeros(len(files), np.int64), groups, share, seed)
    if test.all() or not test.any():
        counted = f"{len(files)} images" if groups is None else f"{len(set(groups))} groups"
        raise UserError(f"{root}: {counted} give no split into train and test; add some, or change data.test_share.")
    note = f"split: {describe_split(test, groups)} to test on, drawn by seed"
    return test, [f"{note} (data.test_share {share:g}, data.split_seed {seed})"]


def _check_classes(found: MaskSet) -> None:
    """Raise a ``UserError`` if a class is in no training mask, or there is nothing to score in the test masks."""
    train, test = found.counts[~found.test].sum(axis=0), found.counts[found.test].sum(axis=0)
    for name, code, here, there in zip(found.classes.names, found.classes.codes, train, test, strict=True):
        if not here:
            where = "only in test masks" if there else "in no mask"
            title = f"{printable(name)} ({show(code, colored=found.classes.colored)})"
            raise UserError(
                f"{found.root}: class {title} is {where}, so it cannot be learned; add training masks with it, or take "
                f"it out of {FILE} or the masks."
            )
    if not test[found.classes.foreground].any():
        beside = "" if found.classes.background is None else " beside the background"
        raise UserError(
            f"{found.root}: no test mask has a pixel of a class{beside}, so there is nothing to score; add test masks "
            f"with some, or change data.split_seed where the split is drawn."
        )


def _class_notes(found: MaskSet) -> list[str]:
    classes, rows = found.classes, []
    for label, (name, code) in enumerate(zip(classes.names, classes.codes, strict=True)):
        masks = int((found.counts[~found.test, label] > 0).sum())
        value = show(code, colored=classes.colored)
        rows.append(f"{printable(name)} ({value}) {found.shares[label]:.2%}, in {masks} masks")
    source = f"named in {FILE}" if (found.root / FILE).exists() else f"counted in the masks; {FILE} gives them names"
    background = classes.background
    left = "no background" if background is None else f"{printable(classes.names[background])} is the background"
    notes = [f"classes, {source}, with their share of the training pixels ({left}): {'; '.join(rows)}"]
    tested = found.counts[found.test].sum(axis=0)
    if lacking := [printable(name) for name, count in zip(classes.names, tested, strict=True) if not count]:
        notes.append(f"note: no test mask has pixels of {', '.join(lacking)}: their scores say little")
    return notes


class MaskedImages:
    """Training images and masks of files in the cache, at the model's size; it can be pickled."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._key = folder, list(names)
        self._images, self._masks = open_array(folder / IMAGES, 4), open_array(folder / MASKS, 3)

    def __reduce__(self) -> tuple:  # worker processes map the files again; as arrays they would be copied to each
        return MaskedImages, self._key

    def __len__(self) -> int:
        return len(self._key[1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image ``uint8 [h, w, 3]`` and its labels ``uint8 [h, w]``."""
        return np.array(self._images[index]), np.array(self._masks[index])

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._key[1][index]


def training_images(found: MaskSet, image_size: tuple[int, int], cache: Path) -> MaskedImages:
    """Decode and resize the training images and masks, unless the cache holds their current state."""
    files = found.of(test=False)
    stamps = [stamp(path) for file in files for path in file[:2]]
    key = digest(READING, describe_size(image_size), str(found.classes), *stamps)
    folder, shape = cache / f"masks-{key}", (len(files), *image_size)

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for file in track(files, total=len(files), text="Decoding images and masks"):
            image, labels = decode_pair(file, found.classes)
            yield decoder.resize(labels, image_size, Image.Resampling.NEAREST), resize_image(image, image_size)

    fill(folder, MASKS, lambda: write_arrays(folder, {MASKS: shape, IMAGES: (*shape, 3)}, pairs()))
    return MaskedImages(folder, [file.name for file in files])


def resize_image(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Resize an image ``uint8 [h, w, 3]`` to the model's size, bilinear and antialiased."""
    return decoder.resize(image, image_size, Image.Resampling.BILINEAR)


def decode_pair(file: MaskFile, classes: MaskClasses) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image ``uint8 [h, w, 3]`` and the labels of its mask ``uint8 [h, w]``, at their own size."""
    image, pixels = _decode(file)
    return image, _labels(file, classes, pixels)
