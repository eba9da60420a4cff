"""The report on a set of faces, images or masks: its content, and defects."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from tvconv_jax.data.formats.folder import identity_files
from tvconv_jax.data.formats.pairs import FOLDS, check_folds, split_folds
from tvconv_jax.data.listing import DECODED_SUFFIXES, SUFFIXES, LeftOut
from tvconv_jax.data.sets import FaceSet, check_folder, kind_of, open_faces, packed_in
from tvconv_jax.data.source import Source, chunks
from tvconv_jax.data.tools.contact_sheet import write_sheet
from tvconv_jax.data.tools.findings import MIN_DARK, Finding, eyes_in_place, find_defects, find_overlap
from tvconv_jax.data.tools.held_out import HeldOut, open_beside, open_held_out
from tvconv_jax.data.tools.image_report import Report, report_images, report_masks
from tvconv_jax.data.tools.image_stats import ImageStats, measure
from tvconv_jax.data.tools.kinds import guess
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite
from tvconv_jax.utils.progress import track

MAX_NAMES = 10  # names in a line
FACE_SIZE = 112  # expected height and width of faces
TRAIN = ("python", "-m", "tvconv_jax.main", "--config=configs/verification.py:data=folder")  # on identities in folders


def inspect(
    path: str,
    *,
    kind: str | None = None,
    tests: Sequence[str] = (),
    size: int | None = None,
    sheet: Path | None = None,
    seed: int = 0,
    every_name: bool = False,
) -> str:
    """Inspect every image of a set; return a report of some ten lines. A ``UserError`` if there is nothing to inspect.

    Args:
        path: A folder of images; of faces also a training set, as for :func:`tvconv_jax.data.sets.open_faces`, a
            verification ``.bin`` or ``_pair.txt``, or a folder that holds training images, test sets or both.
        kind: ``"faces"``, ``"identities"`` (other than faces), ``"images"`` (folders are classes) or ``"masks"`` (with
            their images, or without); default: guessed, and said.
        tests: More test sets of faces, or lists of their identities, for a search for overlap.
        size: Expected height and width of the images in pixels; default: 112 for faces, any for others.
        sheet: Image file to write, with the images of the findings and a sample; ``None`` writes none.
        seed: Seed of the sample.
        every_name: Whether to list all names of a finding, and not the first ten.
    """
    guessed = None
    if kind is None and kind_of(path) == "folder" and Path(path).is_dir():
        guessed = guess(Path(path))
    kind = kind or (guessed.kind if guessed else "faces")
    if kind in ("faces", "identities"):
        report = _identities(path, tests, size, kind)
    else:
        report = _others(path, kind, tests, size)
    first, *lines = report.lines
    lines = [first, *([f"  looks like {kind}: {guessed.reason} (--kind chooses)"] if guessed else []), *lines]
    lines += [f"  ! {finding.line(None if every_name else MAX_NAMES)}" for finding in report.findings]
    if not report.findings:
        lines.append(f"  nothing was found that {'is wrong' if kind in ('images', 'masks') else 'costs accuracy'}")
    if kind == "identities" and kind_of(path) == "folder":
        lines.append(f"  to train    {shlex.join([*TRAIN, f'--config.data.root={path}', '--workdir=runs/own'])}")
    if sheet:
        rows = {finding.text: finding.indices for finding in report.findings if finding.indices}
        write_sheet(announce_overwrite(sheet), report.source, rows, seed=seed)
        lines.append(f"  contact sheet: {sheet}")
    return "\n".join(lines)


def _others(path: str, kind: str, tests: Sequence[str], size: int | None) -> Report:
    """Report on a folder of images or masks."""
    if kind_of(path) != "folder":
        raise UserError(f"--kind={kind} is of folders, and {path} is a set of faces; leave it out.")
    if tests:
        raise UserError(f"--tests is for faces, and {path} holds {kind}; leave it out, or give --kind=faces.")
    check_folder(Path(path))
    report = report_images(Path(path), size) if kind == "images" else report_masks(Path(path), size)
    return report._replace(lines=[f"{path}: {kind}", *report.lines])


def _identities(path: str, tests: Sequence[str], size: int | None, kind: str) -> Report:
    """Report on faces, or images of other identities, to train or to verify on."""
    template = kind == "faces"
    faces, held_out = _open(path, SUFFIXES if template else DECODED_SUFFIXES)
    source = faces.source if faces else held_out[0].source
    missing = () if faces else _missing(path, held_out)
    stats = _measure_all(source, Path(path).name)
    found = [Finding("listed images are missing", missing)] if missing else []
    found += find_defects(source, faces, stats, size or (FACE_SIZE if template else None), template=template)
    if faces:
        beside = [*held_out, *(test for name in tests for test in open_held_out(name))]
        for test in beside:
            found += find_overlap(faces, stats, test)
        apart = [test for test in beside if test.include]
        notes = [
            f"  note: train with --config.data.include_list={test.include}, without those of {test.name}"
            for test in apart
        ]
        return Report([f"{path}: {faces.kind}", *_facts(faces, stats, template=template), *notes], found, source)
    pairs, defects = _pairs(held_out[0])
    return Report([f"{path}: a test set", pairs, *_facts(None, stats, template=template)], [*found, *defects], source)


def _open(path: str, suffixes: tuple[str, ...]) -> tuple[FaceSet | None, list[HeldOut]]:
    """Open the training set, and the test sets beside it."""
    kind, base = kind_of(path), Path(path)
    if kind in ("pairs", "bin"):
        return None, open_held_out(path)
    if kind != "folder":
        return open_faces(path), []
    check_folder(base)
    tests = open_beside(base)
    if packed := packed_in(base):
        return open_faces(packed), tests
    if tests and not identity_files(base, LeftOut(), suffixes):
        return None, tests
    return open_faces(path, suffixes), tests


def _missing(path: str, tests: Sequence[HeldOut]) -> Sequence[str]:
    """Return the missing images of the only test set; raise a ``UserError`` if it has no others."""
    if len(tests) > 1:
        raise UserError(f"{path} holds test sets alone; name one: {', '.join(test.name for test in tests)}.")
    test = tests[0]
    if test.missing and not len(test.source):
        folder = (Path(path) if Path(path).is_dir() else Path(path).parent) / test.name
        raise UserError(f"{path} lists {len(test.missing)} images, and none is in {folder}; put them there.")
    return test.missing


def _measure_all(source: Source, title: str) -> list[ImageStats]:
    with ThreadPoolExecutor(cores()) as threads:
        measured = (threads.map(measure, [record["image"] for record in records]) for records in chunks(source))
        stats = chain.from_iterable(measured)
        return list(track(stats, total=len(source), text=f"Inspecting {title}"))


def _pairs(test: HeldOut) -> tuple[str, list[Finding]]:
    count, same = len(test.same), int(test.same.sum())
    folds = f"{FOLDS} folds" if count and count % FOLDS == 0 else "no equal folds"
    line = f"  pairs       {count:,}: {same:,} of one identity, {count - same:,} of two identities, in {folds}"
    try:
        check_folds(test.same, split_folds(count, test.name), test.name)
    except UserError as error:
        return line, [Finding(str(error))]
    return line, []


def _facts(faces: FaceSet | None, stats: list[ImageStats], *, template: bool) -> Iterator[str]:
    readable = [entry for entry in stats if not entry.error]
    if faces:
        each = np.bincount(faces.labels, minlength=len(faces.identities))
        yield (
            f"  identities  {len(each):,} with {each.min():,} to {each.max():,} images, median {np.median(each):g}; "
            f"{np.sum(each < 2):,} with fewer than two"
        )
    yield f"  images      {len(stats):,}, of which {len(stats) - len(readable):,} cannot be read"
    sizes = Counter(f"{width}x{height}" for height, width in (entry.size for entry in readable))
    more = f", {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    yield "  sizes       " + ", ".join(f"{size}: {count:,}" for size, count in sizes.most_common(3)) + more
    gray = sum(entry.gray for entry in readable)
    yield f"  color       {len(readable) - gray:,}, gray {gray:,}"
    if template:
        yield _eyes(readable)
    yield from (f"  note: {note}" for note in (faces.notes if faces else ()))


def _eyes(readable: list[ImageStats]) -> str:
    dark, drawn = eyes_in_place(readable)
    unlike = f", though darker than the cheeks in {dark:.1%} only: drawn faces?" * (dark < MIN_DARK <= drawn + 0.1)
    return f"  eyes        are at their places in the 112x112 template in {max(dark, drawn):.1%}{unlike}"
