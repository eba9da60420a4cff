"""The package's rules: imports go one way, chains of them are short, old names of modules go on."""

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tvconv_jax
from tvconv_jax.utils import moved

PACKAGE = Path(tvconv_jax.__file__).parent


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports(module):
    """Modules of the package that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return sorted(name for name in found if name in FILES and name != module)


def test_old_names_of_modules_are_the_new_modules(capsys):
    for old, new in moved.MOVED.items():
        assert importlib.import_module(new).__spec__.name == new
        assert importlib.import_module(old) is importlib.import_module(new)
        assert old in moved.FOLDERS or capsys.readouterr().err.startswith(f"note: {old} is now {new};")


@pytest.mark.parametrize("old", ["analysis.report", "analysis.edge_table"])
def test_old_names_of_commands_run_with_one_line(old):
    new = moved.new_name(f"tvconv_jax.{old}")
    done = subprocess.run([sys.executable, "-m", f"tvconv_jax.{old}", "--help"], capture_output=True, text=True)
    assert done.stderr == f"note: tvconv_jax.{old} is now {new}; the old name goes with the next release.\n"
    assert f"python -m {new}" in done.stdout
