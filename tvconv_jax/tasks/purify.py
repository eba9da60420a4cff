"""Purification: the frontal part of a training set, by a classifier of configs/frontal.py.

The paper trains on the 329k frontal ones of CASIA-WebFace's 490k images (Chen et al. 2022, section 4.1).
"""

import csv
import io
from pathlib import Path

import jax
import numpy as np

from tvconv_jax.data.cache import digest
from tvconv_jax.data.decoder import ImageError, pixels
from tvconv_jax.data.sets import FaceSet, open_faces
from tvconv_jax.data.source import Record, Source
from tvconv_jax.data.subset import Subset, short_name, write_include_list
from tvconv_jax.data.tools.contact_sheet import COLUMNS, write_sheet
from tvconv_jax.tasks import load_task
from tvconv_jax.tasks.run import Job, restore
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.tasks.trained import check_trained
from tvconv_jax.training.state import TrainState
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_fit_a_line, check_unclaimed, read_json, replacing, write_json, write_text
from tvconv_jax.utils.progress import track

CHUNK = 2000  # images between two writes of the scores
# Files besides scores.json, which comes first.
WRITTEN = ("scores.npy", "kept.txt", "scores.csv", "histogram.png", "sheet.png", "counts.json")
BROKEN = -1.0  # in scores.npy: an image that cannot be decoded; NaN is one that was not scored yet


def purify(source: str, classifier: Path, out: Path, *, threshold: float = 0.5) -> str:
    """Score a training set and list its frontal images.

    Writes into ``out``: ``kept.txt``, which ``data.include_list`` of a face config takes; ``scores.csv`` and
    ``scores.npy``, the probability of every image; ``histogram.png``; ``sheet.png``, faces from profile to frontal;
    ``counts.json``. To resume, rerun the same command; with another threshold it scores nothing again. Images that
    cannot be decoded are ``nan`` in ``scores.csv`` and -1 in ``scores.npy``, and are never kept.

    Args:
        source: The training set, as :func:`tvconv_jax.data.faces.open_faces` takes it.
        classifier: Workdir of a run of ``configs/frontal.py``; its best checkpoint is taken.
        out: The folder to write.
        threshold: Smallest probability of being frontal that is kept.

    Returns:
        A summary for the terminal.

    Raises:
        UserError: If there is no classifier, no set, or ``out`` holds the scores of others, or the user's own files.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold {threshold} must lie between 0 and 1.")
    check_unclaimed(out, WRITTEN, marker="scores.json", flag="--out")
    job, faces = _classifier(classifier), open_faces(source)
    names = [faces.source.name(index) for index in range(len(faces.labels))]
    check_fit_a_line(names, "the list of what is kept")
    out.mkdir(parents=True, exist_ok=True)
    scores = _scores(job, faces, names, classifier, out, Path(source).name)
    kept = np.flatnonzero(scores >= threshold)
    write_include_list(out / "kept.txt", (names[index] for index in kept))
    table = io.StringIO()
    rows = ((short_name(name), f"{score:.6f}") for name, score in zip(names, scores.tolist(), strict=True))
    csv.writer(table, lineterminator="\n").writerows([("name", "frontal"), *rows])
    write_text(out / "scores.csv", table.getvalue())
    counts = _counts(faces, scores, kept, threshold)
    write_json(out / "counts.json", {"source": source, "classifier": str(classifier), **counts})
    _histogram(out / "histogram.png", scores, counts)
    _sheet(out / "sheet.png", faces, scores)
    broken = [names[index] for index in np.flatnonzero(np.isnan(scores))]
    few = f"{', '.join(broken[:3])}{' ...' if broken[3:] else ''}"
    return "\n".join(
        [
            f"kept {len(kept):,} of {len(scores):,} images ({len(kept) / len(scores):.1%}) and "
            f"{counts['identities_kept']:,} of {counts['identities']:,} identities.",
            *([f"{len(broken):,} cannot be decoded and are not kept: {few}"] if broken else []),
            *faces.notes,
            f"Everything is in {out}: kept.txt, scores.csv, histogram.png, sheet.png, counts.json",
            f"Train on it with --config.data.include_list={out / 'kept.txt'}",
        ]
    )


def _classifier(workdir: Path) -> Job:
    hint = "train configs/frontal.py first"
    try:
        config = read_config(workdir)
    except UserError:
        raise UserError(f"{workdir} holds no classifier; {hint}, or name --classifier.") from None
    if config.task != "frontal":
        raise UserError(f"{workdir} is a run of the task {config.task!r}; {hint}.")
    check_trained(workdir)
    return load_task("frontal").FrontalJob(config)


def _scores(job: Job, faces: FaceSet, names: list[str], classifier: Path, out: Path, title: str) -> np.ndarray:
    """Return the probabilities of all images, ``float32 [n]``, NaN for broken ones; resume a killed call."""
    state = restore(job, classifier.absolute(), best=True)
    weights = (np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, state.batch_stats)))
    of = {"pictures": len(faces.labels), "names": digest(*names), "classifier": digest(*weights)}
    path, what, hint = out / "scores.npy", out / "scores.json", "choose another --out or remove it"
    if what.exists() and read_json(what, hint) != of:
        raise UserError(f"{out} holds the scores of another set or classifier; {hint}.")
    write_json(what, of)
    if not path.exists():
        with replacing(path) as part:
            np.save(part, np.full(len(faces.labels), np.nan, np.float32))
    try:
        scores = np.load(path, mmap_mode="r+")
        if scores.shape != (len(faces.labels),) or scores.dtype != np.float32:
            raise ValueError("scores of other images")
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path} is damaged; remove it, and all is scored again.") from None
    starts = [start for start in range(0, len(scores), CHUNK) if np.isnan(scores[start : start + CHUNK]).any()]
    for start in track(starts, total=len(starts), text=f"Scoring {title}, {CHUNK} images at a time"):
        stop = min(start + CHUNK, len(scores))
        scores[start:stop] = _score(job, state, faces.source, start, stop)
        scores.flush()
    return np.where(scores == BROKEN, np.float32(np.nan), scores)


def _score(job: Job, state: TrainState, source: Source, start: int, stop: int) -> np.ndarray:
    """Return the probabilities of some images, ``float32 [stop - start]``, :data:`BROKEN` for broken ones."""
    try:
        return job.probabilities(state, source, start, stop)
    except UserError:  # now each is decoded, which takes as long again
        whole = [index for index in range(start, stop) if _is_whole(source[index])]
    scores = np.full(stop - start, BROKEN, np.float32)
    if whole:
        scores[np.array(whole) - start] = job.probabilities(state, Subset(source, whole), 0, len(whole))
    return scores


def _is_whole(record: Record) -> bool:
    try:
        return pixels(record["image"]) is not None
    except ImageError:
        return False


def _counts(faces: FaceSet, scores: np.ndarray, kept: np.ndarray, threshold: float) -> dict[str, float]:
    each = np.bincount(faces.labels[kept], minlength=len(faces.identities))
    return {
        "threshold": threshold,
        "pictures": len(scores),
        "pictures_broken": int(np.sum(np.isnan(scores))),
        "pictures_kept": len(kept),
        "identities": len(faces.identities),
        "identities_kept": int(np.sum(each > 0)),
        "pictures_kept_of_an_identity_median": float(np.median(each)),
        "mean_probability": float(np.nanmean(scores)),
    }


def _histogram(path: Path, scores: np.ndarray, counts: dict[str, float]) -> None:
    from matplotlib.figure import Figure  # late: nothing else here draws

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, bins=50, range=(0, 1), color="0.45")
    axes.axvline(counts["threshold"], color="black", linestyle="--")
    axes.set(yscale="log", xlabel="probability of being frontal", ylabel="images")
    axes.set_title(f"{counts['pictures_kept']:,} of {counts['pictures']:,} images are kept", fontsize="medium")
    with replacing(path) as part:
        figure.savefig(part, dpi=150)


def _sheet(path: Path, faces: FaceSet, scores: np.ndarray) -> None:
    """Write a row of faces for each tenth of the probability."""
    order = np.argsort(scores)
    rows = {}
    for low in np.arange(10) / 10:
        found = order[(scores[order] >= low) & (scores[order] < low + 0.1)]
        if len(found):
            chosen = found[np.linspace(0, len(found) - 1, min(COLUMNS, len(found))).astype(int)]
            rows[f"{low:.1f} to {low + 0.1:.1f} frontal, {len(found):,} images"] = chosen.tolist()
    write_sheet(path, faces.source, rows)
