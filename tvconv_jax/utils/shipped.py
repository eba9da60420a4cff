"""Files that lie beside the package in a checkout, and inside it in a wheel: configs, sweeps, launch scripts."""

from pathlib import Path

from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path

PACKAGE = Path(__file__).parents[1]
CONFIGS, SWEEPS, LAUNCH = "configs", "configs/sweeps", "launch"


def shipped_folder(name: str) -> Path:
    """Return the folder of that name in the wheel or the checkout from which the package is imported."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def find_config(name: str, folder: str = CONFIGS) -> Path:
    """Find a config, or a sweep, by its path or its name.

    Args:
        name: A path, or the name of a file: ``face_mb01``, ``face_mb01.py`` and ``configs/face_mb01.py`` are the file
            of the current folder's ``configs/`` if it has one, else the package's.
        folder: ``"configs"`` or ``"configs/sweeps"``.

    Raises:
        UserError: If there is none; lists the names that exist.
    """
    path = user_path(name)
    bare = path.parent == Path() and not path.suffix  # a config's name, although some other file may have it, too
    if path.is_file() and not bare:
        return path
    folders = (Path(folder), shipped_folder(folder))
    if path.parent == Path() or f"/{folder}".endswith(f"/{path.parent}"):
        for there in folders:
            if (found := there / f"{path.name.removesuffix('.py')}.py").is_file():
                return found
    if path.is_file():
        return path
    names = sorted({file.stem for there in folders for file in there.glob("*.py")})
    kind = "sweep" if folder == SWEEPS else "config"
    raise UserError(f"there is no {kind} {name}; there are: {', '.join(names)}, or name a file of your own.")
