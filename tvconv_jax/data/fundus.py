"""Fundus pictures with masks of disc and cup, from four clinics: the DoFE layout, and an embedded synthetic set.

``root/Domain{1..4}/{train,test}/ROIs/image/*.png`` and ``.../mask/*.png`` of the same names; in a mask 0 is the cup,
128 the rim of the disc round it, 255 everything else. Layout: Wang et al. 2020, https://arxiv.org/abs/2010.06208.
"""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from tvconv_jax.data import decoder
from tvconv_jax.data.decoder import READING, ImageError, read_image
from tvconv_jax.data.fundus_masks import MaskError, MaskFacts, check_part, facts, read_mask
from tvconv_jax.data.listing import LeftOut, flat
from tvconv_jax.data.records import NamedBuilder, Names, columns, digest, prepare
from tvconv_jax.data.synthetic import fundus as draw_fundus
from tvconv_jax.data.synthetic.fundus import BACKGROUND, CUP
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names, user_path
from tvconv_jax.utils.progress import track

DOMAINS = (1, 2, 3, 4)
PHASES = ("train", "test")


class FundusRecord(TypedDict):
    """One encoded picture with its encoded mask."""

    image: bytes
    mask: bytes
    name: str


class FundusBuilder(NamedBuilder):
    """Pictures and masks as PNG, a split for every domain and phase; bytes as they are.

    Args:
        splits: The records of every split; read once, while they are written.
        **kwargs: Of :class:`tfds.core.DatasetBuilder`.
    """

    name = "fundus"

    def __init__(self, *, splits: Mapping[str, Iterable[FundusRecord]], **kwargs: Any) -> None:
        self._splits = splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "name": tfds.features.Text(),
            }
        )
        text = "Fundus pictures with masks of the optic disc and cup."
        return tfds.core.DatasetInfo(builder=self, description=text, features=features, disable_shuffling=True)

    def _examples_of(self) -> dict[str, Iterator]:
        return {split: self._examples(records) for split, records in self._splits.items()}

    def _examples(self, records: Iterable[FundusRecord]) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(records):
            files = {key: io.BytesIO(record[key]) for key in ("image", "mask")}
            yield index, {**record, **files}


class FundusSource:
    """Random access to the records of one split; can be pickled, so that worker processes read too."""

    def __init__(self, builder: FundusBuilder, split: str) -> None:
        self._records = ArrayRecordDataSource([str(path) for path in builder.info.splits[split].filepaths])
        self._name = Names(Path(builder.data_path), split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> FundusRecord:
        column = columns(self._records[int(index)])
        image, mask, name = (column[key].bytes_list.value[0] for key in ("image", "mask", "name"))
        return FundusRecord(image=image, mask=mask, name=name.decode())

    def name(self, index: int) -> str:
        """Name of one picture, without reading the picture."""
        return self._name(self._records, int(index))


class FundusData(NamedTuple):
    """Pictures of every domain.

    Attributes:
        train: By domain, to train on.
        test: By domain, to test on.
        description: What the data is, for results.
        notes: What was left out of the folder.
    """

    train: dict[int, FundusSource]
    test: dict[int, FundusSource]
    description: str
    notes: Sequence[str] = ()


def load_folder(root: str, cache: Path) -> FundusData:
    """Checks the pictures of a folder and copies them into records, unless the cache holds them as they are now.

    Args:
        root: Folder in the DoFE layout.
        cache: The cache folder.

    Raises:
        UserError: If the folder, a domain, a picture's mask or a mask's picture is missing, a mask holds other
            values or is of another size than its picture, the masks of a domain's part cannot mean what their values
            say (see :func:`tvconv_jax.data.fundus_masks.check_part`), or a file cannot be read; says which.
    """
    if not root:
        raise UserError("data.root is empty; name the folder of Domain1 to Domain4 with --config.data.root=DIR.")
    base = user_path(root).absolute()
    left_out = LeftOut()
    pairs = {_split(domain, phase): _paired(base, domain, phase, left_out) for domain in DOMAINS for phase in PHASES}
    every = [path for files in pairs.values() for pair in files for path in pair]
    check_names(every)
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in every]
    folder = cache / f"fundus-{digest(READING, *stamps)}"
    if not FundusBuilder(splits=dict.fromkeys(pairs, []), data_dir=folder).data_path.exists():
        _check_all(base, pairs)
    splits = {split: (_record(base, *pair) for pair in files) for split, files in pairs.items()}
    return _load(splits, folder, f"the fundus pictures of {base}", str(root), left_out.notes(base))


def load_embedded(size: str, cache: Path) -> FundusData:
    """Draws the embedded set unless the cache holds it.

    Args:
        size: ``"full"`` (60 + 30 pictures a domain at 128x128) or ``"smoke"``.
        cache: The cache folder.
    """
    counts, side = ({"train": 60, "test": 30}, 128) if size == "full" else ({"train": 12, "test": 4}, 64)
    seeds = iter(np.random.SeedSequence(0).spawn(len(DOMAINS) * len(PHASES)))
    splits = {
        _split(domain, phase): _drawn(next(seeds), domain, counts[phase], side)
        for domain in DOMAINS
        for phase in PHASES
    }
    code = Path(draw_fundus.__file__).read_bytes(), Path(__file__).read_bytes()
    what = "the embedded fundus pictures (synthetic, drawn by tvconv_jax)"
    return _load(splits, cache / f"embedded-fundus-{size}-{digest(*code)}", what, what.removeprefix("the "))


def _load(
    splits: Mapping[str, Iterable[FundusRecord]], folder: Path, what: str, text: str, notes: Sequence[str] = ()
) -> FundusData:
    builder = FundusBuilder(splits=splits, data_dir=folder)
    prepare(builder, what)
    train, test = ({d: FundusSource(builder, _split(d, phase)) for d in DOMAINS} for phase in PHASES)
    counts = ", ".join(f"{len(train[d])}+{len(test[d])}" for d in DOMAINS)
    return FundusData(train, test, f"{text} ({counts} pictures of domains 1 to 4)", notes)


def _split(domain: int, phase: str) -> str:
    return f"domain{domain}_{phase}"


def _paired(base: Path, domain: int, phase: str, left_out: LeftOut) -> list[tuple[Path, Path]]:
    """Every picture with its mask, sorted by name."""
    folder = base / f"Domain{domain}" / phase / "ROIs"
    images, masks = (_by_name(base, folder / kind, left_out) for kind in ("image", "mask"))
    if not images:
        raise UserError(
            f"{folder / 'image'} holds no *.png{_others(folder / 'image')}; every domain needs pictures to train and "
            f"to test on."
        )
    for lacking, having, kind in ((masks, images, "mask"), (images, masks, "image")):
        if alone := sorted(having.keys() - lacking.keys()):
            raise UserError(
                f"{having[alone[0]]} has no {kind} of the same name in {folder / kind} ({len(alone)} such files)"
                f"{_others(folder / kind)}; add or remove."
            )
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_name(base: Path, folder: Path, left_out: LeftOut) -> dict[str, Path]:
    """The PNG files of a folder by their names without the suffix, which may differ in case."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; data.root, {base}, must hold Domain1 to Domain4, each with train/ROIs/image, "
            f"train/ROIs/mask and the same under test."
        )
    files = flat(folder, (".png",), left_out)
    found = {path.stem: path for path in files}
    if twice := [path for path in files if found[path.stem] != path]:
        raise UserError(f"{twice[0]} and {found[twice[0].stem].name} are of one name; rename or remove one.")
    return found


def _others(folder: Path) -> str:
    """What lies in a folder and is not read, to be told where something is missing."""
    left_out = LeftOut()
    flat(folder, (".png",), left_out)
    return "".join(f" ({note})" for note in left_out.notes(folder))


def _check_all(base: Path, pairs: Mapping[str, list[tuple[Path, Path]]]) -> None:
    """Decodes every picture and every mask, then looks at the masks of each domain and phase together."""
    files = [(split, *pair) for split, part in pairs.items() for pair in part]
    found: dict[str, list[MaskFacts]] = {split: [] for split in pairs}
    for split, image, mask in track(files, total=len(files), text="Checking masks"):
        found[split].append(_check(image, mask))
    for (domain, phase), masks in zip(itertools.product(DOMAINS, PHASES), found.values(), strict=True):
        check_part(f"{base}/Domain{domain}/{phase}", masks)


def _check(image: Path, mask: Path) -> MaskFacts:
    try:
        shape = decoder.pixels(read_image(image)).shape[:2]
    except ImageError as error:
        raise UserError(f"{image} cannot be read ({error}); repair or remove it.") from None
    try:
        values = read_mask(read_image(mask))
        if values.shape != shape:
            shapes = "{1}x{0} and {3}x{2}".format(*shape, *values.shape)
            raise UserError(f"{image} and its mask differ in size ({shapes}); they must agree.")
        return facts(mask.name, values)
    except MaskError as error:
        raise UserError(f"{mask} {error}.") from None
    except ImageError as error:
        raise UserError(f"{mask} cannot be read ({error}); repair or remove it.") from None


def _record(base: Path, image: Path, mask: Path) -> FundusRecord:
    return FundusRecord(image=image.read_bytes(), mask=mask.read_bytes(), name=str(image.relative_to(base)))


def _drawn(seed: np.random.SeedSequence, domain: int, count: int, side: int) -> Iterator[FundusRecord]:
    random = np.random.default_rng(seed)
    for index in range(count):
        picture, mask = draw_fundus.draw_fundus(random, domain, side)
        yield FundusRecord(image=_png(picture), mask=_png(mask), name=f"Domain{domain}/{index:03d}.png")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(record: FundusRecord, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask decoded.

    Args:
        record: The record.
        side: To which both are brought, the picture with Lanczos's filter; ``None`` keeps the size.

    Returns:
        ``uint8 [h, w, 3]``, RGB; ``uint8 [h, w]`` of mask values.
    """
    try:
        image, mask = decoder.pixels(record["image"]), read_mask(record["mask"])
    except ImageError as error:
        raise UserError(f"{record['name']} or its mask cannot be decoded ({error}); repair or remove them.") from None
    if side is not None and image.shape[:2] != (side, side):
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
        mask = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    return image, mask


def to_maps(mask: np.ndarray) -> np.ndarray:
    """Mask values ``[...]`` -> boolean ``[..., 2]``: cup, and disc, which holds the cup."""
    return np.stack([mask == CUP, mask != BACKGROUND], axis=-1)


def names(sources: Mapping[int, FundusSource]) -> Sequence[str]:
    """Names of all pictures, domain after domain."""
    return [source.name(i) for source in sources.values() for i in range(len(source))]
