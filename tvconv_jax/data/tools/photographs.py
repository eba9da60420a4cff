"""Alignment of photographs whose landmarks a face detector finds, and a list of those that need a look."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from tvconv_jax.data.decoder import ImageError, as_seen, encode, read_image
from tvconv_jax.data.listing import IMAGE_SUFFIXES, LeftOut, printable, walk
from tvconv_jax.edge.verify import Detector, Mistake, align_face
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_fit_a_line, check_names, write_bytes, write_text
from tvconv_jax.utils.progress import track

QUALITY = 95  # of JPEGs
LIST = "alignment.txt"
HEADER = "# Photographs that need a look, by python -m tvconv_jax.data align"
NO_FACE, SEVERAL, BROKEN = "no face was found", "faces, the largest was taken", "cannot be read"


class Outcome(NamedTuple):
    """A photograph's result."""

    file: str  # path within the source folder
    text: str  # empty, or for the list


def write_aligned(
    source: Path, target: Path, find: Callable[[np.ndarray], np.ndarray | None], size: int
) -> np.ndarray | None:
    """Align an image by the points ``[5, 2]`` that a function finds in it, and write it as a JPEG.

    Returns:
        The points; ``None`` if there are none, and then nothing is written.

    Raises:
        ImageError: If the image cannot be decoded.
    """
    image = as_seen(read_image(source))
    points = find(image)
    if points is not None:
        face = encode(align_face(image, points, size), "JPEG", quality=QUALITY)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, face, durable=False)
    return points


def align_photographs(source: Path, target: Path, size: int) -> str:
    """Align the largest face of every photograph in a folder, at any depth; return a line on the outcome.

    Photographs are written as JPEGs at the same places in ``target``; existing ones are kept. ``alignment.txt`` there
    lists those without a face, with several, and those that cannot be read. An interrupted command keeps its list.

    Raises:
        UserError: If the detector is not installed, the folder holds no images, two of them would get one name, or no
            face is found in any.
    """
    try:
        detector = Detector()
    except Mistake as error:
        raise UserError(f"{error}; or give a list of landmarks: align SOURCE LANDMARKS TARGET.") from None
    photographs, left_out = _photographs(source, target)
    before = _listed(target / LIST)
    waiting = {path: file for path, file in photographs.items() if not (target / path).exists()}
    outcomes = list(_align_all(detector, source, target, waiting, size))
    texts = {outcome.file: outcome.text for outcome in outcomes}
    added = {file for path, file in photographs.items() if (target / path).exists()}  # by a list, since
    old = {file: text for file, text in before.items() if text.endswith(SEVERAL) or file not in added}
    listed = {file: text for file, text in sorted((old | texts).items()) if text}
    lines = [f"{file}\t{text}" for file, text in listed.items()]
    if lines or before:
        target.mkdir(parents=True, exist_ok=True)
        write_text(target / LIST, "\n".join([HEADER, *lines]) + "\n")
    done = [outcome for outcome in outcomes if not outcome.text or outcome.text.endswith(SEVERAL)]
    there, files = len(photographs) - len(waiting), set(photographs.values())
    if not done and not there:
        raise UserError(f"no face was found in any of the {len(photographs)} images of {source}; see {target / LIST}.")
    counts = [f"{len(done)} faces aligned to {size}x{size}"]
    counts += [f"{there} were in {target} already"] if there else []
    counts += _troubles({file: text for file, text in listed.items() if file in files})
    counts += _lost(target, photographs)
    counts += [f"listed in {target / LIST}"] if lines else []
    return "\n".join(["; ".join(counts), *left_out.notes(source)])


def _photographs(source: Path, target: Path) -> tuple[dict[Path, str], LeftOut]:
    """Return the file within ``source`` for every path within ``target``."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; name the folder of the photographs.")
    left_out, found = LeftOut(), {}
    base, inner = source.resolve(), target.resolve()
    paths = [path for path in walk(source, left_out) if not (base / path.relative_to(source)).is_relative_to(inner)]
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    left_out.add("files that are not images", *(path for path in paths if path not in set(images)))
    check_names(images)
    for file in (path.relative_to(source) for path in images):
        check_fit_a_line([str(file)], LIST)
        path = file.with_suffix(".jpg")
        if path in found:
            raise UserError(
                f"{source} holds {found[path]} and {file}, which would both become {path}; rename one of them."
            )
        found[path] = str(file)
    if not found:
        raise UserError(f"{source} holds no images; name the folder of the photographs.")
    return found, left_out


def _align_all(
    detector: Detector, source: Path, target: Path, waiting: Mapping[Path, str], size: int
) -> Iterator[Outcome]:
    """Align on all cores; the results come in order.

    The list has a photograph with several faces before its aligned face is there, which is not searched again.
    """
    lock = Lock()

    def align(item: tuple[Path, str]) -> Outcome:
        path, file = item
        faces = []

        def find(image: np.ndarray) -> np.ndarray | None:
            faces.extend(detector.find(image))
            if faces[1:]:
                with lock:
                    _add_to_list(target / LIST, file, f"{len(faces)} {SEVERAL}")
            return faces[0].points if faces else None

        try:
            points = write_aligned(source / file, target / path, find, size)
        except ImageError as error:
            return Outcome(file, f"{BROKEN}: {error}")
        if points is None:
            return Outcome(file, NO_FACE)
        return Outcome(file, f"{len(faces)} {SEVERAL}" if faces[1:] else "")

    pool = ThreadPoolExecutor(cores())  # the detector, decoders and Pillow let other threads run meanwhile
    try:
        yield from track(pool.map(align, waiting.items()), total=len(waiting), text="Finding and aligning faces")
    finally:
        pool.shutdown(cancel_futures=True)


def _add_to_list(path: Path, file: str, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = "" if path.exists() else f"{HEADER}\n"
    with path.open("ab") as opened:
        opened.write(f"{start}{file}\t{text}\n".encode())


def _listed(path: Path) -> dict[str, str]:
    """Return the files and texts of an earlier list."""
    if not path.exists():
        return {}
    header, *lines = path.read_text(errors="replace").splitlines() or [""]
    if header != HEADER:
        raise UserError(f"{path} is where the list of this command goes, and is not one; rename or move it.")
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _troubles(listed: Mapping[str, str]) -> list[str]:
    """Return counts, with examples, of photographs that are not plain."""
    found = []
    for text, word in ((NO_FACE, "without a face"), (SEVERAL, "with several faces, of which the largest was taken")):
        files = [file for file, why in listed.items() if why.endswith(text)]
        found += [f"{len(files)} {word} ({_some(files)})"] if files else []
    broken = [file for file, text in listed.items() if text.startswith(BROKEN)]
    return found + ([f"{len(broken)} cannot be read ({_some(broken)})"] if broken else [])


def _lost(target: Path, photographs: Mapping[Path, str]) -> list[str]:
    """Name the identities of which no photograph was aligned."""
    kept = {path.parent for path in photographs if (target / path).exists()}
    lost = sorted({str(path.parent) for path in photographs if path.parent not in kept})
    return [f"no face at all of {_some(lost)}"] if lost else []


def _some(files: list[str]) -> str:
    return ", ".join(map(printable, files[:3])) + (", ..." if files[3:] else "")
