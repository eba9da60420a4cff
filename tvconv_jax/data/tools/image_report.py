"""Reports on images in folders, and on masks with their images: what they hold, and what is wrong with them."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tvconv_jax.data import decoder
from tvconv_jax.data.decoder import ImageError, read_image
from tvconv_jax.data.listing import LeftOut
from tvconv_jax.data.mask_classes import label_counts
from tvconv_jax.data.source import LooseFiles
from tvconv_jax.data.tools.findings import ROTATED, Finding, equal_files, named_images, unreadable
from tvconv_jax.data.tools.image_stats import ImageStats, measure
from tvconv_jax.data.tools.kinds import FEW, MASK_END, check_any, files_of, is_mask
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.progress import track

MAX_VALUES = 256  # of one mask that are counted
SHOWN = 10  # classes, sizes or values in a line
BLANK = 2.0  # levels of brightness: an image that varies less is empty
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")


class Report(NamedTuple):
    """Lines on a set, its findings, and the images for the contact sheet."""

    lines: list[str]
    findings: list[Finding]
    source: LooseFiles


def report_images(base: Path, size: int | None) -> Report:
    """Report on images at any depth of a folder, whose folders are classes; ``size`` is their height and width."""
    left_out = LeftOut()
    files = _files(base, left_out)
    folders = [str(path.parent.relative_to(base)) for path in files]
    classes, labels, counts = np.unique(folders, return_inverse=True, return_counts=True)
    source, stats = LooseFiles(files, labels), _each(files, measure_file, f"Inspecting {base.name}")
    lines = list(_facts(stats))
    if len(classes) > 1:
        train = ["python", "-m", "tvconv_jax.main", "--config=configs/classification.py:data=folder"]
        lines.append(f"  train       a classifier: {shlex.join([*train, f'--config.data.root={base}'])}")
        lines.insert(0, f"  classes     {len(classes):,}: {_shown(dict(zip(classes, counts, strict=True)))}")
    findings = [*unreadable(source, stats), *equal_files(source, labels, stats, "class", "classes")]
    findings += _defects(source, stats, size)
    return Report([*lines, *(f"  note: {note}" for note in left_out.notes(base))], findings, source)


def report_masks(base: Path, size: int | None) -> Report:
    """Report on the masks of a folder, by the names of its folders, and on the images that they belong to by name."""
    left_out = LeftOut()
    files = _files(base, left_out)
    masks = [path for path in files if is_mask(path, base)] or files
    images = sorted({*files} - {*masks})
    source = LooseFiles(masks)
    found = _each(masks, _labels, f"Inspecting {base.name}")
    readable = [counts for counts in found if not isinstance(counts, str)]
    lines = [f"  masks       {len(masks):,}, of which {len(masks) - len(readable):,} cannot be read"]
    lines.append(f"  values      {_values(readable)}")
    lines.append(f"  sizes       {_shown(_sizes(masks))}")
    findings = _mask_defects(source, masks, found)
    others = [index for index, path in enumerate(masks) if size and _size(path) not in ("", f"{size}x{size}")]
    findings += named_images(source, f"masks that are not {size}x{size}", others)
    if images:
        pairs, alone, without = _paired(images, masks)
        lines.append(f"  images      {len(images):,}, of which {len(without):,} have no mask")
        findings += _pair_defects(pairs, alone, without)
    return Report([*lines, *(f"  note: {note}" for note in left_out.notes(base))], findings, source)


def _files(base: Path, left_out: LeftOut) -> list[Path]:
    files = files_of(base, left_out)
    check_any(base, files)
    return files


def _each(files: Sequence[Path], call: Callable[[Path], Any], title: str) -> list[Any]:
    with ThreadPoolExecutor(cores()) as threads:
        return list(track(threads.map(call, files), total=len(files), text=title))


def measure_file(path: Path) -> ImageStats:
    """Measure an image file."""
    try:
        return measure(read_image(path))
    except ImageError as error:
        return ImageStats(str(path).encode(), error=str(error))


def _shown(counts: Mapping[str, int]) -> str:
    more = f", {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ", ".join(f"{name}: {count:,}" for name, count in list(counts.items())[:SHOWN]) + more


def _facts(stats: Sequence[ImageStats]) -> Iterator[str]:
    readable = [entry for entry in stats if not entry.error]
    yield f"  images      {len(stats):,}, of which {len(stats) - len(readable):,} cannot be read"
    sizes = Counter(f"{width}x{height}" for height, width in (entry.size for entry in readable))
    yield f"  sizes       {_shown(dict(sizes.most_common()))}"
    gray = sum(entry.gray for entry in readable)
    modes = Counter(entry.mode for entry in readable)
    yield f"  color       {len(readable) - gray:,}, gray {gray:,}; modes {_shown(dict(modes.most_common()))}"
    if readable:
        low, middle, high = np.percentile([entry.brightness for entry in readable], [5, 50, 95])
        yield f"  brightness  median {middle:.0f} of 255, 5 % of the images below {low:.0f}, 5 % above {high:.0f}"


def _defects(source: LooseFiles, stats: Sequence[ImageStats], size: int | None) -> Iterator[Finding]:
    read = [index for index, entry in enumerate(stats) if not entry.error]
    blank = [index for index in read if stats[index].contrast < BLANK]
    yield from named_images(source, "images of one brightness, with nothing on them", blank)
    rotated = [index for index in read if stats[index].rotated]
    yield from named_images(source, ROTATED, rotated)
    if size:
        others = [index for index in read if stats[index].size != (size, size)]
        yield from named_images(source, f"images that are not {size}x{size}", others)


def _labels(path: Path) -> dict[str, int] | str:
    """Return the pixels of a mask's most frequent values, or the reason why it cannot be read."""
    try:
        return dict(Counter(label_counts(read_image(path))).most_common(MAX_VALUES))
    except ImageError as error:
        return str(error)


def _values(masks: Sequence[Mapping[str, int]]) -> str:
    """Return values with their shares of all pixels, and the number of masks that hold them."""
    totals, held = Counter(), Counter()
    for counts in masks:
        totals.update(counts)
        held.update(counts.keys())
    pixels = sum(totals.values())

    def order(value: str) -> tuple[bool, int]:
        number = value.split(" ")[0]  # of a palette, before the color
        return not number.isdecimal(), int(number) if number.isdecimal() else -totals[value]

    known = sorted(totals, key=order)
    if len(known) > SHOWN:
        known = [value for value, _ in totals.most_common(SHOWN)]
    texts = [f"{value}: {totals[value] / pixels:.1%} in {held[value]:,}" for value in known]
    more = f", {len(totals) - SHOWN:,} more" if len(totals) > SHOWN else ""
    return f"{len(totals):,}, with their share of the pixels and their masks: {', '.join(texts)}{more}"


def _size(path: Path) -> str:
    try:
        height, width = decoder.size(read_image(path))
    except ImageError:
        return ""
    return f"{width}x{height}"


def _sizes(files: Sequence[Path]) -> dict[str, int]:
    return dict(Counter(filter(None, map(_size, files))).most_common())


def _mask_defects(source: LooseFiles, masks: Sequence[Path], found: Sequence[dict[str, int] | str]) -> list[Finding]:
    errors = [(path, error) for path, error in zip(masks, found, strict=True) if isinstance(error, str)]
    bad = [f"{path} ({error.split(';')[0]})" for path, error in errors]
    findings = [Finding("masks that cannot be read", bad)] if bad else []
    read = [index for index, counts in enumerate(found) if not isinstance(counts, str)]
    lossy = [index for index in read if masks[index].suffix.lower() in LOSSY]
    findings += named_images(source, "masks saved with loss, which changes values: save them as PNG", lossy)
    many = [index for index in read if len(found[index]) > FEW and index not in set(lossy)]
    text = f"masks of more than {FEW} values: if they have fewer classes, resize them without interpolation"
    findings += named_images(source, text, many)
    single = [index for index in read if len(found[index]) == 1]
    return [*findings, *named_images(source, "masks of one value alone", single)]


def _key(path: Path) -> str:
    """Return the name by which a mask belongs to its image."""
    return MASK_END.sub("", path.stem.lower())


def _paired(images: Sequence[Path], masks: Sequence[Path]) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pair images and masks of one name, those with the most common folders; return also masks and images alone."""
    by_name: dict[str, list[Path]] = {}
    for path in masks:
        by_name.setdefault(_key(path), []).append(path)
    pairs, without = [], []
    for image in images:
        near = by_name.get(image.stem.lower(), [])
        found = max(near, key=lambda mask: len({*mask.parts} & {*image.parts}), default=None)
        if found is None:
            without.append(image)
        else:
            near.remove(found)
            pairs.append((image, found))
    return pairs, [path for left in by_name.values() for path in left], without


def _pair_defects(pairs: Sequence[tuple[Path, Path]], alone: Sequence[Path], without: Sequence[Path]) -> list[Finding]:
    texts = {"images without a mask": without, "masks without an image": alone}
    findings = [Finding(text, [str(path) for path in paths]) for text, paths in texts.items() if paths]
    sizes = [(image, _size(image), _size(mask)) for image, mask in pairs]
    others = [f"{image} ({size}, its mask {of_mask})" for image, size, of_mask in sizes if size != of_mask]
    return [*findings, *([Finding("images of another size than their mask", others)] if others else [])]
