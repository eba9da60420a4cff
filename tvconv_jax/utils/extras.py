"""Optional packages: the extras that bring them, and one line where they are missing."""

import importlib.util

from tvconv_jax.utils.errors import UserError

_DATA = ("absl", "array_record", "etils", "grain", "importlib_resources", "ml_collections", "PIL", "rich", "scipy")
_DATA += ("simplejpeg", "tensorflow_datasets")
# Modules that each extra of pyproject.toml brings.
EXTRAS = {
    "data": _DATA,
    "train": (*_DATA, "matplotlib", "optax", "orbax", "sklearn", "tensorboardX", "tensorstore"),
    "export": ("onnx", "onnxruntime", "torch"),
    "align": (*_DATA, "mtcnnruntime", "onnxruntime", "cv2"),
    "torch": ("torch",),
}
# The extra without which commands do not start; a package's row holds for modules without a row. A subcommand may have
# a row of its own, like a module in that package. Commands with an empty row check their packages themselves.
NEEDED = {
    "tvconv_jax.bench": "train",
    "tvconv_jax.bench.gpu": "",
    "tvconv_jax.data": "data",
    "tvconv_jax.experiments": "train",
    "tvconv_jax.export": "export",  # of which those of its formats are looked for once these are known
    "tvconv_jax.main": "train",
    "tvconv_jax.metrics.complexity": "data",
    "tvconv_jax.report": "train",
    "tvconv_jax.tasks": "train",
}


def missing(*modules: str) -> list[str]:
    """Return those of some top-level modules that are not installed, in order; nothing is imported."""
    return [name for name in dict.fromkeys(modules) if importlib.util.find_spec(name) is None]


def require(extra: str, *modules: str, purpose: str = "") -> None:
    """Raise a ``UserError`` that names what to install, unless the modules of an extra are there.

    Call it before any work, also for a later step that needs them.

    Args:
        extra: A key of :data:`EXTRAS`.
        modules: Those of its modules that are needed; default: all.
        purpose: What needs them, for the message, such as ``"--formats=onnx"``.
    """
    if lacking := missing(*(modules or EXTRAS[extra])):
        needs = f"; {purpose} needs {'them' if lacking[1:] else 'it'}" if purpose else ""
        verb = "are" if lacking[1:] else "is"
        names = lacking if len(lacking) < 4 else [*lacking[:3], f"{len(lacking) - 3} more"]
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        raise UserError(f"{listed} {verb} not installed{needs}: pip install 'tvconv_jax[{extra}]'.")


def require_for(module: str, called_as: str = "", *, subcommand: str = "") -> None:
    """Raise a ``UserError`` if a command, the name of its module, lacks packages without which it does not start.

    ``called_as`` names it in the message; default: ``python -m`` and the module.
    """
    name = f"{module}.{subcommand}"
    while name and name not in NEEDED:
        name = name.rpartition(".")[0]
    if extra := NEEDED.get(name):
        at_once = EXTRAS["train" if extra == "export" else extra]
        require(extra, *at_once, purpose=called_as or f"python -m {module}")
