"""What a set of faces holds, and what in it costs accuracy."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tvconv_jax.data.formats.folder import identity_files
from tvconv_jax.data.formats.pairs import FOLDS, check_folds, cut_folds
from tvconv_jax.data.listing import LeftOut
from tvconv_jax.data.sets import FaceSet, check_folder, kind_of, open_faces, packed_in
from tvconv_jax.data.source import Source, read
from tvconv_jax.data.tools.contact_sheet import write_sheet
from tvconv_jax.data.tools.findings import Finding, findings, overlap
from tvconv_jax.data.tools.held_out import HeldOut, beside, open_held_out
from tvconv_jax.data.tools.image_stats import Look, look
from tvconv_jax.data.tools.progress import track
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.outputs import announce_overwrite

CHUNK = 1024  # pictures whose bytes are held at once
SHOWN = 10  # names in a line


def inspect(
    path: str,
    *,
    tests: Sequence[str] = (),
    side: int = 112,
    sheet: Path | None = None,
    seed: int = 0,
    every_name: bool = False,
) -> str:
    """Looks at every picture of a set.

    Args:
        path: A training set, as :func:`tvconv_jax.data.sets.open_faces` takes it; a verification ``.bin`` or
            ``_pair.txt``; or a folder that holds training pictures, test sets or both.
        tests: More test sets, or lists of their people, to look for overlap with.
        side: Side that pictures should have.
        sheet: Picture to write: what was found, and a sample; ``None`` writes none.
        seed: Of the sample.
        every_name: Whether all names are told of what was found, and not the first ten.

    Returns:
        The report, some ten lines.

    Raises:
        UserError: If there is nothing to look at.
    """
    faces, held_out = _open(path)
    missing = () if faces else _missing(path, held_out)
    source = faces.source if faces else held_out[0].source
    looks = _look_at(source, Path(path).name)
    found = [Finding("pictures that it lists are missing", missing)] if missing else []
    found += findings(source, faces, looks, side)
    for test in [*held_out, *(test for name in tests for test in open_held_out(name))] if faces else []:
        found += overlap(faces, looks, test)
    found += [] if faces else _faults_of_pairs(held_out[0])
    about = _facts(faces, looks) if faces else [_pairs(held_out[0]), *_facts(None, looks)]
    lines = [f"{path}: {faces.kind if faces else 'a test set'}", *about]
    lines += [f"  ! {finding.line(None if every_name else SHOWN)}" for finding in found]
    if not found:
        lines.append("  nothing was found that costs accuracy")
    if sheet:
        write_sheet(
            announce_overwrite(sheet),
            source,
            {finding.text: finding.indices for finding in found if finding.indices},
            seed=seed,
        )
        lines.append(f"  contact sheet: {sheet}")
    return "\n".join(lines)


def _open(path: str) -> tuple[FaceSet | None, list[HeldOut]]:
    """The training set, and the test sets beside it."""
    kind, base = kind_of(path), Path(path)
    if kind in ("pairs", "bin"):
        return None, open_held_out(path)
    if kind != "folder":
        return open_faces(path), []
    check_folder(base)
    tests = beside(base)
    if packed := packed_in(base):
        return open_faces(packed), tests
    if tests and not identity_files(base, LeftOut()):
        return None, tests
    return open_faces(path), tests


def _missing(path: str, tests: Sequence[HeldOut]) -> Sequence[str]:
    """Pictures that a test set lists and that are not there; an error if none is, or if there are several sets."""
    if len(tests) > 1:
        raise UserError(f"{path} holds test sets alone; name one: {', '.join(test.name for test in tests)}.")
    test = tests[0]
    if test.missing and not len(test.source):
        folder = (Path(path) if Path(path).is_dir() else Path(path).parent) / test.name
        raise UserError(f"{path} lists {len(test.missing)} pictures, and none is in {folder}; put them there.")
    return test.missing


def _look_at(source: Source, title: str) -> list[Look]:
    def chunks() -> Iterator[Look]:
        with ThreadPoolExecutor(cores()) as threads:
            for start in range(0, len(source), CHUNK):
                stop = min(start + CHUNK, len(source))
                yield from threads.map(look, [record["image"] for record in read(source, range(start, stop))])

    return list(track(chunks(), total=len(source), text=f"Looking at {Path(title).name}"))


def _pairs(test: HeldOut) -> str:
    """How many pairs a test set has, of which kind, in how many folds."""
    count, same = len(test.same), int(test.same.sum())
    folds = f"{FOLDS} folds" if count and count % FOLDS == 0 else "no equal folds"
    return f"  pairs       {count:,}: {same:,} of one identity, {count - same:,} of two identities, in {folds}"


def _faults_of_pairs(test: HeldOut) -> Iterator[Finding]:
    """Why pairs cannot be verified on."""
    try:
        check_folds(test.same, cut_folds(len(test.same), test.name), test.name)
    except UserError as error:
        yield Finding(str(error))


def _facts(faces: FaceSet | None, looks: list[Look]) -> Iterator[str]:
    read = [entry for entry in looks if not entry.error]
    if faces:
        each = np.bincount(faces.labels, minlength=len(faces.identities))
        yield (
            f"  identities  {len(each):,} with {each.min():,} to {each.max():,} pictures, median {np.median(each):g}; "
            f"{np.sum(each < 2):,} with fewer than two"
        )
    yield f"  pictures    {len(looks):,}, of which {len(looks) - len(read):,} cannot be read"
    sizes = Counter(f"{width}x{height}" for height, width in (entry.size for entry in read))
    more = f", {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
    yield "  sizes       " + ", ".join(f"{size}: {count:,}" for size, count in sizes.most_common(3)) + more
    gray = sum(entry.gray for entry in read)
    yield f"  color      {len(read) - gray:,}, gray {gray:,}"
    placed = np.mean([entry.eyes > 0 for entry in read]) if read else 0
    yield f"  eyes        are where the 112x112 template has them in {placed:.1%}"
    yield from (f"  note: {note}" for note in (faces.notes if faces else ()))
