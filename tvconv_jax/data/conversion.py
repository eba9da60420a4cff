"""Face data from one format into another, byte for byte: pictures are never decoded or written anew."""

from collections.abc import Iterator
from pathlib import Path

from tvconv_jax.data.bin_file import BinFaces, write_bin
from tvconv_jax.data.folder import training_files
from tvconv_jax.data.pairs import read_pairs
from tvconv_jax.data.progress import track
from tvconv_jax.data.record_faces import RecordFaces, walk, write_faces
from tvconv_jax.data.recordio import RecordFile, write_index
from tvconv_jax.data.records import Record
from tvconv_jax.errors import UserError

# A picture's file name says what its first bytes are.
SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}


def convert(source: Path, target: Path) -> str:
    """Converts training pictures between folders and ``.rec``, verification sets between ``_pair.txt`` and ``.bin``.

    From a ``.rec`` that has lost its ``.idx``, that too.

    Args:
        source: ``DIR`` of ``<identity>/*.jpg``, ``*.rec``, ``<set>_pair.txt`` with ``<set>/`` beside it, or ``*.bin``.
        target: What to write, named alike. Loose pictures that are there already are left; other files are written
            whole or not at all, so that a killed conversion goes on when it is given again.

    Returns:
        What was done, in a line.

    Raises:
        UserError: If the kinds do not fit each other, the source is damaged or the target is there.
    """
    known = {
        ("folder", "rec"): _folder_to_rec,
        ("rec", "folder"): _rec_to_folder,
        ("rec", "idx"): _rec_to_index,
        ("pairs", "bin"): _pairs_to_bin,
        ("bin", "pairs"): _bin_to_pairs,
    }
    kinds = _kind(source), _kind(target)
    if kinds not in known:
        ways = "; ".join(f"{a} to {b}" for a, b in known)
        raise UserError(f"{source} ({kinds[0]}) cannot become {target} ({kinds[1]}); there are: {ways}.")
    return known[kinds](source, target)


def _kind(path: Path) -> str:
    if path.name.endswith("_pair.txt"):
        return "pairs"
    return {".rec": "rec", ".idx": "idx", ".bin": "bin"}.get(path.suffix, "folder")


def _folder_to_rec(source: Path, target: Path) -> str:
    files = training_files(source)
    identities = {name: label for label, name in enumerate(sorted({path.parent.name for path in files}))}
    faces = (Record(image=p.read_bytes(), label=identities[p.parent.name], name=str(p)) for p in files)
    names = target.with_suffix(".lst")  # which key was which file, as MXNet's im2rec says it
    lines = (f"{key}\t{identities[p.parent.name]}\t{_relative(p)}\n" for key, p in enumerate(files, start=1))
    _write(names, "".join(lines).encode())
    count = write_faces(target, track(faces, total=len(files), text=f"Writing {target.name}"))
    return f"{count} pictures of {len(identities)} identities; the files' names are in {names}"


def _relative(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _rec_to_folder(source: Path, target: Path) -> str:
    faces = RecordFaces(source)
    names = _names(source.with_suffix(".lst"))
    for index in track(range(len(faces)), total=len(faces), text=f"Writing {target.name}"):
        face, key = faces[index], int(faces.keys[index])
        label = int(faces.labels[face["label"]])
        _write(target / names.get(key, f"{label:07d}/{key:08d}{_suffix(face['image'])}"), face["image"])
    return f"{len(faces)} pictures of {len(faces.labels)} identities"


def _rec_to_index(source: Path, target: Path) -> str:
    if target.exists():
        raise UserError(f"{target} exists and is not written over; choose another name or remove it.")
    keys, offsets = walk(RecordFile(source))
    write_index(target, keys, offsets)
    return f"{len(keys)} records"


def _names(path: Path) -> dict[int, str]:
    """Names by key, where the file of names is there; a name outside of the target folder is refused."""
    names = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        key, *_, name = line.split("\t")
        parts = Path(name).parts
        if not key.isdigit() or len(parts) != 2 or ".." in parts or Path(name).is_absolute():
            raise UserError(
                f"{path}:{number}: {line!r} must be 'key label identity/file'; correct it or remove {path}."
            )
        names[int(key)] = name
    return names


def _suffix(image: bytes) -> str:
    return SIGNATURES.get(image[:2], ".jpg")


def _write(path: Path, image: bytes) -> None:
    if path.exists():
        if path.read_bytes() == image:
            return
        raise UserError(f"{path} exists with other content and is not written over; choose another name or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(image)
    part.rename(path)


def _pairs_to_bin(source: Path, target: Path) -> str:
    root = source.with_name(source.name.removesuffix("_pair.txt"))
    pairs, names = read_pairs(source, root)
    images = [
        (root / names[index]).read_bytes() for pair in zip(pairs.left, pairs.right, strict=True) for index in pair
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bin(target, images, pairs.same.tolist())
    return f"{len(pairs.same)} pairs"


def _bin_to_pairs(source: Path, target: Path) -> str:
    faces = BinFaces(source)
    if target.exists():
        raise UserError(f"{target} exists and is not written over; choose another name or remove it.")
    root = target.with_name(target.name.removesuffix("_pair.txt"))
    names: dict[bytes, str] = {}  # a picture of several pairs is one file
    for index in track(range(len(faces)), total=len(faces), text=f"Writing {root.name}"):
        image = faces[index]["image"]
        name = names.setdefault(image, f"{len(names):06d}{_suffix(image)}")
        _write(root / name, image)
    part = target.with_name(f"{target.name}.part")
    part.write_text("".join(_pair_lines(faces, names)))
    part.rename(target)
    return f"{len(faces.pairs.same)} pairs of {len(names)} pictures"


def _pair_lines(faces: BinFaces, names: dict[bytes, str]) -> Iterator[str]:
    for left, right, same in zip(faces.pairs.left, faces.pairs.right, faces.pairs.same, strict=True):
        yield f"{names[faces[left]['image']]} {names[faces[right]['image']]} {1 if same else -1}\n"
