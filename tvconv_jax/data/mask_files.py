"""Files of a user's images with masks: ``{train,test}/{image,mask}``, or one ``image`` and ``mask`` that are split."""

from pathlib import Path
from typing import NamedTuple

from tvconv_jax.data.listing import DECODED_SUFFIXES, LeftOut, check_once, flat, printable
from tvconv_jax.data.split import find_groups
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import check_names

SPLITS = ("train", "test")
LAYOUT = "{train,test}/{image,mask}, or image and mask, with files of the same names"


class MaskFile(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path
    name: str  # of the image below the root, for messages and results
    split: str  # "train", "test", or "" where the split is drawn
    group: str = ""  # person or device, if there are groups


def list_pairs(root: Path, group_pattern: str, left_out: LeftOut) -> list[MaskFile]:
    """List the images of a folder with their masks, sorted by name.

    Args:
        root: The folder.
        group_pattern: Regular expression whose first group, or whole match, in an image's file name is its group;
            empty: there are no groups.
        left_out: Collects what is not read.

    Raises:
        UserError: If folders are missing, an image has no mask or the reverse, two files have the same name, or the
            pattern is invalid or finds nothing in a name.
    """
    found = [split for split in SPLITS if (root / split).is_dir()]
    if not found and not (root / "image").is_dir():
        raise UserError(f"{root} holds neither train nor image; the set is laid out as {LAYOUT}{_rename(root)}.")
    if len(found) == 1:
        lacking = next(split for split in SPLITS if split not in found)
        raise UserError(
            f"{root} holds {found[0]} but not {lacking}; add it, or give --config.data.root={root / found[0]}, whose "
            f"images are split."
        )
    files = [file for split in found or [""] for file in _paired(root, split, left_out)]
    check_names(path for file in files for path in file[:2])
    check_once((file.image, file.split or file.image) for file in files)
    groups = find_groups([file.image.name for file in files], group_pattern)
    return [file._replace(group=group) for file, group in zip(files, groups, strict=True)] if groups else files


def _paired(root: Path, split: str, left_out: LeftOut) -> list[MaskFile]:
    folder = root / split
    images, masks = (_by_stem(root, folder / kind, left_out) for kind in ("image", "mask"))
    for lacking, having, kind in ((masks, images, "mask"), (images, masks, "image")):
        if alone := sorted(having.keys() - lacking.keys()):
            raise UserError(
                f"{printable(str(having[alone[0]]))} has no {kind} of the same name in {folder / kind} ({len(alone)} "
                f"of {len(having)} files); add or remove."
            )
    if not images:
        notes = "".join(f" ({note})" for note in left_out.notes(root))
        raise UserError(f"{folder / 'image'} holds no images ({', '.join(DECODED_SUFFIXES)}){notes}; put some there.")
    return [MaskFile(images[n], masks[n], str(images[n].relative_to(root)), split) for n in sorted(images)]


def _by_stem(root: Path, folder: Path, left_out: LeftOut) -> dict[str, Path]:
    if not folder.is_dir():
        hint = _rename(folder.parent)
        raise UserError(f"{folder} is not a folder; data.root, {root}, is laid out as {LAYOUT}{hint}.")
    files = flat(folder, DECODED_SUFFIXES, left_out)
    found = {path.stem: path for path in files}
    if twice := [path for path in files if found[path.stem] != path]:
        raise UserError(
            f"{printable(str(twice[0]))} and {printable(found[twice[0].stem].name)} have the same name; remove one."
        )
    return found


def _rename(folder: Path) -> str:
    """Return a hint if a folder holds ``images`` or ``masks``."""
    plural = [name for name in ("images", "masks") if (folder / name).is_dir()]
    return "; rename " + " and ".join(f"{name}/ to {name[:-1]}/" for name in plural) if plural else ""
