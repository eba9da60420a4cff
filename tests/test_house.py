"""The rules of the package: direction and length of import chains, docstrings, vocabulary, old names of modules."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvconv_jax
from tvconv_jax.utils import moved

PACKAGE = Path(tvconv_jax.__file__).parent
ROOT = PACKAGE.parent
# A package imports itself and those before it. `tvconv_jax/__init__.py` imports what it exports.
ORDER = (
    *("edge", "utils", "ops", "nn", "models", "nnx", "losses", "metrics", "convert", "data", "training", "tasks"),
    *("export", "report", "experiments", "bench", "predict", "verify", "main", "__main__"),
)
LONGEST = 8  # modules in a chain of imports
# Words that have a plainer one, see CONTRIBUTING.md.
WORDS = re.compile(r"\bpictures?\b|\bpeople\b|told apart|(?<!there )\bis no |\bwide\(", re.IGNORECASE)
# Old words that stay: keys and names of files on disk, old names of flags and modules, people on photographs.
KEPT = re.compile(
    r"""pictures\.png|["']pictures["']|pictures_kept|"pictures of domain|"""
    r"""--pictures|eval\.pictures|data\.picture|real people"""
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
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


@functools.cache
def chain(module):
    """The longest chain of imports that begins with a module."""
    return [module, *max((chain(imported) for imported in imports(module)), key=len, default=[])]


def room(module):
    return (module.split(".") + [""])[1]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    before = ORDER[: ORDER.index(package) + 1]
    for module in FILES:
        if room(module) == package:
            wrong = [name for name in imports(module) if room(name) not in before]
            assert not wrong, f"{module} imports {', '.join(wrong)}"


def test_every_package_has_its_place():
    assert {room(module) for module in FILES} == {"", *ORDER}


def test_chains_of_imports_are_short():
    longest = max((chain(module) for module in FILES), key=len)
    assert len(longest) <= LONGEST, " > ".join(longest)


def docstrings():
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield module, getattr(node, "name", "module"), text


def test_docstrings_begin_with_a_verb_or_a_noun():
    wrong = [(module, name, text) for module, name, text in docstrings() if re.match(r"(What|Of|How|Where)\b", text)]
    assert not wrong, wrong


def test_the_vocabulary_is_the_fields():
    found = []
    for path in (*FILES.values(), *sorted((ROOT / "configs").rglob("*.py"))):
        name = str(path.relative_to(ROOT))
        for line in path.read_text().splitlines():
            if WORDS.search(KEPT.sub("", line)):
                found.append(f"{name}: {line.strip()}")
    assert not found, "\n".join(found)


def test_old_names_of_modules_are_the_new_modules(capsys):
    moved.print_renamed.cache_clear()
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
