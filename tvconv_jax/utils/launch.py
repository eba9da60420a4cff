"""Launch scripts: run one, print it, or write it to a file.

    tvconv-jax launch                        the scripts, one a line
    tvconv-jax launch NAME [ARGUMENTS]       run a script
    tvconv-jax launch NAME --print           print it
    tvconv-jax launch NAME --out=FILE        write it to a file, as for sbatch or kubectl

A script that needs a Python takes the one that runs this command, unless PYTHON names another.
"""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tvconv_jax.utils import cli
from tvconv_jax.utils.cli import check_output_file, ends_in_one_line
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.shipped import LAUNCH, shipped_folder

SOURCED = "artifacts"  # no command, but a part of others


def list_scripts() -> dict[str, Path]:
    """Return the launch scripts and manifests by their names, which are those of the files without the ending."""
    found = {path.stem: path for path in sorted(shipped_folder(LAUNCH).iterdir()) if path.is_file()}
    return {name: path for name, path in found.items() if name != SOURCED}


def summary(script: Path) -> str:
    """Return the first sentence of a script's comment, in one line."""
    comments = [line[2:] for line in script.read_text().splitlines() if line.startswith("# ")]
    return comments[0].partition(": ")[0].partition(". ")[0].rstrip(":.,")


def _out_file(options: Sequence[str]) -> str | None:
    """Return the FILE of ``--out=FILE`` or ``--out FILE``, if that is the first option."""
    flag, given, value = (options[0] if options else "").partition("=")
    if flag != "--out":
        return None
    value = value if given else "".join(options[1:2])
    if not value or len(options) != (1 if given else 2):
        raise UserError("--out needs the name of one file, as in --out=slurm.sbatch.")
    return value


def _write(script: Path, name: str) -> None:
    if SOURCED in script.read_text():
        raise UserError(f"{script.name} reads files beside it, so a copy would not run; run it with its arguments.")
    file = check_output_file(user_path(name))
    if file.exists():
        raise UserError(f"{file} exists and is left as it is; name another file.")
    shutil.copy(script, file)
    print(f"wrote {file}")


def _run(script: Path, arguments: Sequence[str]) -> None:
    """Become the script; those that need a Python take this one."""
    if script.suffix == ".yaml":
        raise UserError(f"{script.stem} is a manifest; --print shows it, and --out=FILE writes it.")
    sys.stdout.flush()
    name = f"{cli.called_as or 'python -m tvconv_jax.utils.launch'} {script.stem}"
    variables = {"PYTHON": sys.executable} | os.environ | {"CALLED_AS": name}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the script
    os.execvpe("bash", ["bash", str(script), *arguments], variables)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    name, *options = (sys.argv[1:] if argv is None else argv) or [""]
    with ends_in_one_line("nothing was written."):
        scripts = list_scripts()
        named = scripts | {script.name: script for script in scripts.values()}
        if name in ("", "-h", "--help"):
            print(__doc__)
            print(*(f"{name:16} {summary(script)}" for name, script in scripts.items()), sep="\n")
        elif name not in named:
            raise UserError(f"there is no launch script {name!r}; there are: {', '.join(scripts)}.")
        elif options == ["--print"]:
            print(named[name].read_text(), end="")
        elif file := _out_file(options):
            _write(named[name], file)
        else:
            _run(named[name], options)


if __name__ == "__main__":
    main()
