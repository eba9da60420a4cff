"""Type checkers accept a user's file in strict mode, and find mistakes in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tvconv_jax

HERE = Path(__file__).parent
ROOT = HERE.parent
ACCEPTED, MISTAKES = "tests/typed_example.py", "tests/typed_mistakes.py"


def checked(module, *arguments):
    """The lines of a checker's output."""
    # Both read the checkout: they cannot follow the import hook of an editable install.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", module, *arguments, ACCEPTED, MISTAKES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr  # 1: mistakes were found
    return done.stdout


def run_mypy(folder):
    # Silent about what the files import, as about installed packages.
    output = checked("mypy", "--strict", "--output=json", "--follow-imports=silent", f"--cache-dir={folder / 'mypy'}")
    found = [json.loads(line) for line in output.splitlines()]
    return [(row["file"], row["line"], row["message"]) for row in found if row["severity"] == "error"]


def run_pyright(folder):
    output = json.loads(checked("pyright", "--outputjson", f"--pythonpath={sys.executable}"))
    return [
        (str(Path(row["file"]).relative_to(ROOT)), row["range"]["start"]["line"] + 1, row["message"])
        for row in output["generalDiagnostics"]
        if row["severity"] == "error"
    ]


@pytest.mark.parametrize("run", [run_mypy, run_pyright])
def test_a_users_file_is_accepted_and_each_mistake_is_found(run, tmp_path):
    errors = run(tmp_path)
    assert [error for error in errors if error[0] != MISTAKES] == []
    lines = (ROOT / MISTAKES).read_text().splitlines()
    marked = {number for number, line in enumerate(lines, start=1) if line.endswith("# mistake")}
    assert {line for _, line, _ in errors} == marked, errors


def test_the_package_says_that_it_has_types():
    assert (Path(tvconv_jax.__file__).parent / "py.typed").exists()
    assert '"tvconv_jax" = ["py.typed"]' in (ROOT / "pyproject.toml").read_text()
