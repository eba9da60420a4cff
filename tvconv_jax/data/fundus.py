"""Fundus images with masks of disc and cup, from four clinics: the DoFE layout, and an embedded synthetic set.

``root/Domain{1..4}/{train,test}/ROIs/image/*.png`` and ``.../mask/*.png`` of the same names; in a mask 0 is the cup,
128 the rim of the disc round it, 255 everything else. Layout: Wang et al. 2020, https://arxiv.org/abs/2010.06208.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tvconv_jax.data import decoder
from tvconv_jax.data.cache import digest, stamp
from tvconv_jax.data.decoder import READING, ImageError, encode, read_image
from tvconv_jax.data.fundus_masks import MaskError, MaskFacts, check_part, facts, read_mask
from tvconv_jax.data.listing import LeftOut, flat
from tvconv_jax.data.records import ImageSource, RecordBuilder, prepare
from tvconv_jax.data.synthetic import fundus as draw_fundus
from tvconv_jax.data.synthetic.fundus import BACKGROUND, CUP
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names, user_path
from tvconv_jax.utils.progress import track

DOMAINS = (1, 2, 3, 4)
PHASES = ("train", "test")
PARTS = tuple(itertools.product(DOMAINS, PHASES))


class FundusRecord(TypedDict):
    """One encoded image with its encoded mask."""

    image: bytes
    mask: bytes
    name: str


class FundusBuilder(RecordBuilder):
    """A builder of images and masks as PNG, a split for every domain and phase."""

    name = "fundus"
    text = "Fundus images with masks of the optic disc and cup."

    def features(self) -> dict[str, Any]:
        """Return the TFDS feature of every column."""
        image, mask = (tfds.features.Image(shape=(None, None, n), encoding_format="png") for n in (3, 1))
        return {"image": image, "mask": mask, "name": tfds.features.Text()}


class FundusSource(ImageSource):
    """Random access to the records of one split."""

    @staticmethod
    def _parse(column: Mapping[str, Any]) -> FundusRecord:
        image, mask, name = (column[key].bytes_list.value[0] for key in ("image", "mask", "name"))
        return FundusRecord(image=image, mask=mask, name=name.decode())


class FundusData(NamedTuple):
    """Training and test images by domain, a description for results, and notes on files that were left out."""

    train: dict[int, FundusSource]
    test: dict[int, FundusSource]
    description: str
    notes: Sequence[str] = ()


def load_folder(root: str, cache: Path) -> FundusData:
    """Check the images of a folder in the DoFE layout and copy them into records, unless they are in the cache.

    Raises:
        UserError: If the folder, a domain, an image's mask or a mask's image is missing, a mask holds other values or
            has another size than its image, the masks of a domain's part cannot mean what their values say (see
            :func:`tvconv_jax.data.fundus_masks.check_part`), or a file cannot be read. The message names the file.
    """
    if not root:
        raise UserError("data.root is empty; name the folder of Domain1 to Domain4 with --config.data.root=DIR.")
    base = user_path(root).absolute()
    left_out = LeftOut()
    pairs = {part: _paired(base, *part, left_out) for part in PARTS}
    files = [path for part in pairs.values() for pair in part for path in pair]
    check_names(files)
    folder = cache / f"fundus-{digest(READING, *map(stamp, files))}"
    if not FundusBuilder(splits={}, data_dir=folder).data_path.exists():
        _check_all(base, pairs)
    splits = [_records(base, pairs[part]) for part in PARTS]
    return _load(splits, folder, f"the fundus images of {base}", str(root), left_out.notes(base))


def load_embedded(size: str, cache: Path) -> FundusData:
    """Draw the set ``"full"`` (60 + 30 images a domain at 128x128) or ``"smoke"``, unless it is in the cache."""
    counts, image_size = ({"train": 60, "test": 30}, 128) if size == "full" else ({"train": 12, "test": 4}, 64)
    seeds = zip(PARTS, np.random.SeedSequence(0).spawn(len(PARTS)), strict=True)
    splits = [_drawn(seed, domain, counts[phase], image_size) for (domain, phase), seed in seeds]
    code = Path(draw_fundus.__file__).read_bytes(), Path(__file__).read_bytes()
    text = "embedded fundus images (synthetic, drawn by tvconv_jax)"
    return _load(splits, cache / f"embedded-fundus-{size}-{digest(*code)}", f"the {text}", text)


def _load(
    parts: Sequence[Iterable[FundusRecord]], folder: Path, title: str, description: str, notes: Sequence[str] = ()
) -> FundusData:
    names = [f"domain{domain}_{phase}" for domain, phase in PARTS]
    builder = FundusBuilder(splits=dict(zip(names, parts, strict=True)), data_dir=folder)
    prepare(builder, title)
    train, test = ({d: FundusSource(builder, f"domain{d}_{phase}") for d in DOMAINS} for phase in PHASES)
    counts = ", ".join(f"{len(train[d])}+{len(test[d])}" for d in DOMAINS)
    return FundusData(train, test, f"{description} ({counts} images of domains 1 to 4)", notes)


def _paired(base: Path, domain: int, phase: str, left_out: LeftOut) -> list[tuple[Path, Path]]:
    """Pair every image with its mask, sorted by name."""
    folder = base / f"Domain{domain}" / phase / "ROIs"
    images, masks = (_by_name(base, folder / kind, left_out) for kind in ("image", "mask"))
    if not images:
        raise UserError(
            f"{folder / 'image'} holds no *.png{_others(folder / 'image')}; every domain needs images to train and to "
            f"test on."
        )
    for lacking, having, kind in ((masks, images, "mask"), (images, masks, "image")):
        if alone := sorted(having.keys() - lacking.keys()):
            raise UserError(
                f"{having[alone[0]]} has no {kind} of the same name in {folder / kind} ({len(alone)} such files)"
                f"{_others(folder / kind)}; add or remove."
            )
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_name(base: Path, folder: Path, left_out: LeftOut) -> dict[str, Path]:
    """Map the PNG files of a folder by their names without the suffix, which may differ in case."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; data.root, {base}, must hold Domain1 to Domain4, each with train/ROIs/image, "
            f"train/ROIs/mask and the same under test."
        )
    files = flat(folder, (".png",), left_out)
    found = {path.stem: path for path in files}
    if twice := [path for path in files if found[path.stem] != path]:
        raise UserError(f"{twice[0]} and {found[twice[0].stem].name} have the same name; rename or remove one.")
    return found


def _others(folder: Path) -> str:
    """Return a note on the files of a folder that are not read."""
    left_out = LeftOut()
    flat(folder, (".png",), left_out)
    return "".join(f" ({note})" for note in left_out.notes(folder))


def _check_all(base: Path, pairs: Mapping[tuple[int, str], list[tuple[Path, Path]]]) -> None:
    """Decode every image and every mask, then check the masks of each domain and phase together."""
    files = [(part, *pair) for part in pairs for pair in pairs[part]]
    found: dict[tuple[int, str], list[MaskFacts]] = {part: [] for part in pairs}
    for part, image, mask in track(files, total=len(files), text="Checking masks"):
        found[part].append(_check_pair(image, mask))
    for (domain, phase), masks in found.items():
        check_part(f"{base}/Domain{domain}/{phase}", masks)


def _check_pair(image: Path, mask: Path) -> MaskFacts:
    path = image
    try:
        shape = decoder.pixels(read_image(image)).shape[:2]
        path = mask
        values = read_mask(read_image(mask))
        if values.shape == shape:
            return facts(mask.name, values)
    except MaskError as error:
        raise UserError(f"{mask} {error}.") from None
    except ImageError as error:
        raise UserError(f"{path} cannot be read ({error}); repair or remove it.") from None
    shapes = "{1}x{0} and {3}x{2}".format(*shape, *values.shape)
    raise UserError(f"{image} and its mask differ in size ({shapes}); they must agree.")


def _records(base: Path, pairs: list[tuple[Path, Path]]) -> Iterator[FundusRecord]:
    for image, mask in pairs:
        yield FundusRecord(image=image.read_bytes(), mask=mask.read_bytes(), name=str(image.relative_to(base)))


def _drawn(seed: np.random.SeedSequence, domain: int, count: int, image_size: int) -> Iterator[FundusRecord]:
    random = np.random.default_rng(seed)
    for index in range(count):
        image, mask = (encode(array, "PNG") for array in draw_fundus.draw_fundus(random, domain, image_size))
        yield FundusRecord(image=image, mask=mask, name=f"Domain{domain}/{index:03d}.png")


def decode_pair(record: FundusRecord, image_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image and its mask, and resize both to ``image_size`` (the image with Lanczos's filter) if given.

    Returns:
        ``uint8 [h, w, 3]``, RGB; ``uint8 [h, w]`` of mask values.
    """
    try:
        image, mask = decoder.pixels(record["image"]), read_mask(record["mask"])
    except ImageError as error:
        raise UserError(f"{record['name']} or its mask cannot be decoded ({error}); repair or remove them.") from None
    if image_size is None:
        return image, mask
    resample = Image.Resampling
    return decoder.resize(image, image_size, resample.LANCZOS), decoder.resize(mask, image_size, resample.NEAREST)


def to_maps(mask: np.ndarray) -> np.ndarray:
    """Convert mask values ``[...]`` to boolean ``[..., 2]``: cup, and disc, which holds the cup."""
    return np.stack([mask == CUP, mask != BACKGROUND], axis=-1)


def names(sources: Mapping[int, FundusSource]) -> Sequence[str]:
    """Return the names of all images, domain after domain."""
    return [source.name(i) for source in sources.values() for i in range(len(source))]
