"""Fundus pictures with masks of disc and cup, from four clinics: the DoFE layout, and an embedded synthetic set.

``root/Domain{1..4}/{train,test}/ROIs/image/*.png`` and ``.../mask/*.png`` of the same names; in a mask 0 is the cup,
128 the rim of the disc round it, 255 everything else. Layout: Wang et al. 2020, https://arxiv.org/abs/2010.06208.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from tvconv_jax.data import draw_fundus
from tvconv_jax.data.decoder import DECODE_ERRORS
from tvconv_jax.data.draw_fundus import BACKGROUND, CUP, RIM
from tvconv_jax.data.progress import track
from tvconv_jax.data.records import columns, digest, prepare
from tvconv_jax.errors import UserError
from tvconv_jax.files import check_names, user_path

DOMAINS = (1, 2, 3, 4)
PHASES = ("train", "test")
MASK_VALUES = {CUP, RIM, BACKGROUND}


class FundusRecord(TypedDict):
    """One encoded picture with its encoded mask."""

    image: bytes
    mask: bytes
    name: str


class FundusBuilder(tfds.core.GeneratorBasedBuilder):
    """Pictures and masks as PNG, a split for every domain and phase; bytes as they are.

    Args:
        splits: The records of every split; read once, while they are written.
        **kwargs: Of :class:`tfds.core.DatasetBuilder`.
    """

    name = "fundus"
    VERSION = tfds.core.Version("1.0.0")
    SKIP_REGISTERING = True

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

    def _split_generators(self, _: Any) -> dict[str, Iterator]:
        return {split: self._examples(records) for split, records in self._splits.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("_split_generators yields the examples itself")

    def _examples(self, records: Iterable[FundusRecord]) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(records):
            files = {key: io.BytesIO(record[key]) for key in ("image", "mask")}
            yield index, {**record, **files}


class FundusSource:
    """Random access to the records of one split; can be pickled, so that worker processes read too."""

    def __init__(self, builder: FundusBuilder, split: str) -> None:
        self._records = ArrayRecordDataSource([str(path) for path in builder.info.splits[split].filepaths])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> FundusRecord:
        column = columns(self._records[int(index)])
        image, mask, name = (column[key].bytes_list.value[0] for key in ("image", "mask", "name"))
        return FundusRecord(image=image, mask=mask, name=name.decode())

    def name(self, index: int) -> str:
        """Name of one picture, for messages."""
        return self[index]["name"]


class FundusData(NamedTuple):
    """Pictures of every domain.

    Attributes:
        train: By domain, to train on.
        test: By domain, to test on.
        description: What the data is, for results.
    """

    train: dict[int, FundusSource]
    test: dict[int, FundusSource]
    description: str


def load_folder(root: str, cache: Path) -> FundusData:
    """Checks the pictures of a folder and copies them into records, unless the cache holds them as they are now.

    Args:
        root: Folder in the DoFE layout.
        cache: The cache folder.

    Raises:
        UserError: If the folder, a domain, a picture's mask or a mask's picture is missing, a mask holds other
            values or is of another size than its picture, or a file cannot be read; says which.
    """
    if not root:
        raise UserError("data.root is empty; name the folder of Domain1 to Domain4 with --config.data.root=DIR.")
    base = user_path(root).absolute()
    pairs = {_split(domain, phase): _paired(base, domain, phase) for domain in DOMAINS for phase in PHASES}
    every = [path for files in pairs.values() for pair in files for path in pair]
    check_names(every)
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in every]
    folder = cache / f"fundus-{digest(*stamps)}"
    if not FundusBuilder(splits=dict.fromkeys(pairs, []), data_dir=folder).data_path.exists():
        for image, mask in track(
            [pair for files in pairs.values() for pair in files], total=len(every) // 2, text="Checking masks"
        ):
            _check(image, mask)
    splits = {split: (_record(base, *pair) for pair in files) for split, files in pairs.items()}
    return _load(splits, folder, f"the fundus pictures of {base}", str(root))


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


def _load(splits: Mapping[str, Iterable[FundusRecord]], folder: Path, what: str, text: str) -> FundusData:
    builder = FundusBuilder(splits=splits, data_dir=folder)
    prepare(builder, what)
    train, test = ({d: FundusSource(builder, _split(d, phase)) for d in DOMAINS} for phase in PHASES)
    counts = ", ".join(f"{len(train[d])}+{len(test[d])}" for d in DOMAINS)
    return FundusData(train, test, f"{text} ({counts} pictures of domains 1 to 4)")


def _split(domain: int, phase: str) -> str:
    return f"domain{domain}_{phase}"


def _paired(base: Path, domain: int, phase: str) -> list[tuple[Path, Path]]:
    """Every picture with its mask, sorted by name."""
    folder = base / f"Domain{domain}" / phase / "ROIs"
    images, masks = ({path.name: path for path in folder.joinpath(kind).glob("*.png")} for kind in ("image", "mask"))
    if not images:
        raise UserError(f"{folder / 'image'} holds no *.png; every domain needs pictures to train and to test on.")
    for lacking, having, kind in ((masks, images, "mask"), (images, masks, "image")):
        if alone := sorted(having.keys() - lacking.keys()):
            raise UserError(
                f"{having[alone[0]]} has no {kind} of the same name in {folder / kind} ({len(alone)} such files); "
                f"add or remove."
            )
    return [(images[name], masks[name]) for name in sorted(images)]


def _check(image: Path, mask: Path) -> None:
    with _opened(image) as picture:
        size = picture.size
    with _opened(mask) as picture:
        if picture.size != size:
            shapes = "{}x{} and {}x{}".format(*size, *picture.size)
            raise UserError(f"{image} and its mask differ in size ({shapes}); they must agree.")
        values = {value for _, value in picture.convert("L").getcolors(256)}
    if values - MASK_VALUES:
        shown = ", ".join(map(str, sorted(values - MASK_VALUES)[:5]))
        raise UserError(f"{mask} holds the values {shown}; a mask holds 0 (cup), 128 (rim) and 255 (outside) only.")


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except DECODE_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error}); repair or remove it.") from None


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
    image = Image.open(io.BytesIO(record["image"])).convert("RGB")
    mask = Image.open(io.BytesIO(record["mask"])).convert("L")
    if side is not None and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
        mask = mask.resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(mask)


def to_maps(mask: np.ndarray) -> np.ndarray:
    """Mask values ``[...]`` -> boolean ``[..., 2]``: cup, and disc, which holds the cup."""
    return np.stack([mask == CUP, mask != BACKGROUND], axis=-1)


def names(sources: Mapping[int, FundusSource]) -> Sequence[str]:
    """Names of all pictures, domain after domain."""
    return [source.name(i) for source in sources.values() for i in range(len(source))]
