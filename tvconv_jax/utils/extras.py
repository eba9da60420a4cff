"""Optional packages: the extras that bring them, and one line where they are missing."""

import importlib.util

from tvconv_jax.utils.errors import UserError

# Modules that each extra of pyproject.toml brings.
EXTRAS = {
    "export": ("onnx", "onnxruntime", "torch"),
    "torch": ("torch",),
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
        raise UserError(f"{' and '.join(lacking)} {verb} not installed{needs}: pip install 'tvconv_jax[{extra}]'.")
