"""A balanced list of verification pairs, drawn from a folder of identities."""

import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tvconv_jax.data.decoder import ImageError, pixels, read_image
from tvconv_jax.data.formats.folder import check_set_name, identity_files
from tvconv_jax.data.formats.pairs import FOLDS, LFW_LIST, LIST_END, is_list, set_of
from tvconv_jax.data.listing import DECODED_SUFFIXES, SUFFIXES, LeftOut
from tvconv_jax.data.sets import check_folder, kind_of
from tvconv_jax.data.subset import short_name
from tvconv_jax.data.tools.held_out import TRAIN_END
from tvconv_jax.data.tools.image_stats import digest
from tvconv_jax.data.tools.pair_sampling import Fold, draw_folds
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_fit_a_line, check_names, write_text
from tvconv_jax.utils.progress import track

NAME = f"own{LIST_END}"  # of the list, unless another is given
MAX_NAMES = 10  # identities in a line
FACES, OWN = "configs/face_mb01.py", "configs/verification.py"  # the config of faces reads .jpg and .png alone
LEFT_OUT = {"read": "images that cannot be read", "equal": "images equal to another one: used once"}

Identities = dict[str, list[Path]]  # images by identity


def pairs(
    folder: str,
    *,
    out: Path | None = None,
    pairs_per_fold: int | None = None,
    seed: int = 0,
    hold_out: int | float | None = None,
) -> str:
    """Write a list of pairs, half of them of one identity, in ten folds; return a report.

    Folds share no identity if there are enough: twenty, ten of them with two images.

    Args:
        folder: Folder of identities: a ``data.root``, or the ``train`` in it.
        out: The list, ``<set>_pair.txt``; default: ``own_pair.txt`` in ``data.root``, where training looks for it.
        pairs_per_fold: Even; default: as many as the images allow, up to 600.
        seed: Of the identities that are held out, and of the pairs.
        hold_out: Number or share of the identities that pairs are made of. The images of the others go to
            ``<set>_train.txt``, for ``data.include_list``. Default: pairs of all identities.

    Raises:
        UserError: If the folder or an option does not fit, there are too few images, or another list is in the way.
    """
    if pairs_per_fold and pairs_per_fold % 2:
        raise UserError(f"--pairs-per-fold={pairs_per_fold} must be even: half of them show one identity.")
    base, identities, left_out = _open(folder)
    out = base / NAME if out is None else out
    _check_name(out, base, identities)
    random = np.random.default_rng(seed)
    readable = _readable(identities, left_out)
    _check(folder, readable)
    held = readable if hold_out is None else _hold_out(random, readable, hold_out)
    found, reason = draw_folds(random, _unique(held, left_out), pairs_per_fold, "" if hold_out is None else " held out")
    include = out.with_name(set_of(out)[0] + TRAIN_END)
    rest = sorted(path for name, images in readable.items() if name not in held for path in images)
    texts = _texts(out, found, rest, include if rest else None)
    for path, text in texts.items():
        write_text(path, text)
    lines = _report(out, found, reason, held, readable, include, base)
    return "\n".join([*lines, *(f"  note: {note}" for note in left_out.notes(base))])


def _open(folder: str) -> tuple[Path, Identities, LeftOut]:
    """Return the ``data.root`` of a folder of identities, and the images in it."""
    if (kind := kind_of(folder)) != "folder":
        raise UserError(
            f"{folder} ({kind}) is not a folder of identities; python -m tvconv_jax.data convert writes one from a "
            ".rec or a TFDS set."
        )
    check_folder(Path(folder))
    base, left_out, identities = Path(folder), LeftOut(), {}
    base = base.parent if base.name == "train" else base
    files = identity_files(base, left_out, DECODED_SUFFIXES)
    check_names(files)
    for path in files:
        identities.setdefault(path.parent.name, []).append(path)
    _check(folder, identities)
    return base, identities, left_out


def _check(folder: str, identities: Identities) -> None:
    if len(identities) < 2:
        number = f"{len(identities)} identit{'y' if len(identities) == 1 else 'ies'}"
        raise UserError(f"{folder} holds {number} with images; pairs need two or more folders <identity>/*.jpg.")


def _check_name(out: Path, base: Path, identities: Identities) -> None:
    if out.name.lower() == LFW_LIST or not is_list(out):
        raise UserError(f"--out={out} must end in {LIST_END}, by which training finds it; name {out.with_name(NAME)}.")
    name, _ = set_of(out)
    check_set_name(out, name)
    flat = {path.parent.parent for images in identities.values() for path in images} == {base}
    if flat and name in identities and out.parent.resolve() == base.resolve():
        raise UserError(f"--out={out} is a set {name!r}, and an identity has that name; give another name.")


def _readable(identities: Identities, left_out: LeftOut) -> Identities:
    """Leave out images that cannot be decoded, and identities without others."""

    def check(path: Path) -> bool:
        try:
            return pixels(read_image(path)) is not None
        except ImageError:
            return False

    files = [path for images in identities.values() for path in images]
    with ThreadPoolExecutor(cores()) as threads:
        good = dict(zip(files, track(threads.map(check, files), total=len(files), text="Checking images"), strict=True))
    left_out.add(LEFT_OUT["read"], *(path for path in files if not good[path]))
    found = {name: [path for path in images if good[path]] for name, images in identities.items()}
    return {name: images for name, images in found.items() if images}


def _unique(identities: Identities, left_out: LeftOut) -> list[list[Path]]:
    """Return the images of each identity without files that are equal to an earlier one."""
    seen: set[bytes] = set()
    groups = []
    for images in identities.values():
        keys = {path: digest(path.read_bytes()) for path in images}
        first = {keys[path]: path for path in reversed(images) if keys[path] not in seen}
        left_out.add(LEFT_OUT["equal"], *(path for path in images if path not in first.values()))
        seen |= first.keys()
        groups.append(sorted(first.values()))
    return [images for images in groups if images]


def _hold_out(random: np.random.Generator, identities: Identities, wanted: int | float) -> Identities:
    """Choose identities at random, those with two images or more before the others."""
    total = len(identities)
    count = wanted if isinstance(wanted, int) else round(wanted * total)
    if not 2 <= count <= total - 2:
        raise UserError(
            f"--hold-out={wanted} of {total} identities leaves {max(total - count, 0)} to train on and {count} for "
            "pairs; both need two or more."
        )
    names = random.permutation(sorted(identities)).tolist()
    chosen = sorted(names, key=lambda name: len(identities[name]) < 2)[:count]
    return {name: identities[name] for name in sorted(chosen)}


def _texts(out: Path, folds: Sequence[Fold], rest: Sequence[Path], include: Path | None) -> dict[Path, str]:
    """Return the text of each file to write; raise a ``UserError`` for one that is there with another text."""
    _, root = set_of(out.absolute())
    name = {
        path: os.path.relpath(path.absolute(), root)
        for fold in folds
        for kind in fold
        for pair in kind
        for path in pair
    }
    check_fit_a_line([*name.values(), *(short_name(str(path)) for path in rest)], out)
    texts = {include: "".join(f"{short_name(str(path))}\n" for path in rest)} if include else {}
    rows = [(*pair, flag) for fold in folds for kind, flag in zip(fold, (1, -1), strict=True) for pair in kind]
    texts[out] = "".join(f"{name[left]}\t{name[right]}\t{flag}\n" for left, right, flag in rows)
    for path, text in texts.items():
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == text.encode()):
            raise UserError(
                f"{path} exists with other content and is not written over; give another --out, or move it away."
            )
    return texts


def _report(
    out: Path, folds: Sequence[Fold], reason: str, held: Identities, everyone: Identities, include: Path, base: Path
) -> Iterator[str]:
    count = sum(len(fold.same) for fold in folds)
    used = {path for fold in folds for kind in fold for pair in kind for path in pair}
    yield f"{out}: {2 * count:,} pairs of {len(used):,} images, {count:,} of one identity and {count:,} of two"
    shared = f"share identities ({reason})" if reason else "share no identity"
    yield f"  folds       {FOLDS} of {2 * len(folds[0].same)} pairs; they {shared}"
    where = out.parent.resolve() == base.resolve()
    data = [f"--config.data.root={base}"] + ([] if where else [f"--config.data.verify_root={out.parent}"])
    of_faces = all(path.suffix.lower() in SUFFIXES for images in everyone.values() for path in images)
    config = FACES if of_faces else OWN
    command = ["python", "-m", "tvconv_jax.main", f"--config={config}:data={'folder' if where else 'casia'}"]
    if len(held) == len(everyone):
        yield f"  identities  all {len(everyone):,}; training sees them too; --hold-out=0.2 keeps some apart"
        yield from _commands([*command, *data], of_faces)
        return
    names = ", ".join(list(held)[:MAX_NAMES]) + (", ..." if len(held) > MAX_NAMES else "")
    yield f"  held out    {len(held):,} of {len(everyone):,} identities: {names}"
    yield f"  {include}: the images of the other {len(everyone) - len(held):,} identities"
    yield from _commands([*command, *data, f"--config.data.include_list={include}"], of_faces)


def _commands(command: Sequence[str], of_faces: bool) -> Iterator[str]:
    yield f"  to train    {shlex.join([*command, '--workdir=runs/own'])}"
    if of_faces:
        yield f"  not faces?  {OWN} in the place of {FACES}, for images of any size"
