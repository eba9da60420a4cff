"""``python -m tvconv_jax.report WORKDIR``: the report of a run that ended, again."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tvconv_jax.tasks import report_data as evidence
from tvconv_jax.report.curves import read_metrics
from tvconv_jax.report.run import NAME
from tvconv_jax.tasks import load_task
from tvconv_jax.tasks.workdir import read_config
from tvconv_jax.training.steps import check_reachable
from tvconv_jax.utils.cli import Parser, ends_in_one_line, path_argument
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json


def remake(workdir: Path, *, pictures: bool = False) -> Path:
    """Writes the report of a workdir anew.

    A run of an older version left no ``report.npz``: its last checkpoint is restored and measured for that.

    Args:
        workdir: Of the run.
        pictures: Shows pictures of the data whatever ``eval.report_pictures`` was.

    Returns:
        The report.

    Raises:
        UserError: If the folder holds no run that ended, or its checkpoint or data is needed and missing.
    """
    check_reachable(workdir, "WORKDIR")
    config = read_config(workdir)
    task = load_task(config.task)
    if not (workdir / "results.json").exists():
        raise UserError(f"{workdir} holds no results.json: the run has not ended; the command that began it goes on.")
    _check_files(workdir)
    config.eval.report_pictures = pictures or config.eval.get("report_pictures", False)
    task.report(config, workdir.absolute())
    return workdir / NAME


def _check_files(workdir: Path) -> None:
    """A ``UserError`` if a file that the report reads is damaged."""
    trained = "the command that trained the run"
    for name, reads, hint in (
        ("results.json", parse_json, f"remove it, and {trained} writes it anew"),
        ("metrics.jsonl", lambda text: read_metrics(text.splitlines()), f"{trained} drops the lines that are not its"),
    ):
        try:
            reads((workdir / name).read_text())
        except (OSError, ValueError):
            raise UserError(f"{workdir / name} is damaged or missing, and cannot be reported; {hint}.") from None
    try:
        evidence.load(workdir)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{workdir / evidence.NAME} is damaged; remove it, and the run is measured again.") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.report", description="Writes WORKDIR/report.html anew.")
    parser.add_argument("workdir", type=path_argument, metavar="WORKDIR", help="folder of a run that ended")
    parser.add_argument("--pictures", action="store_true", help="shows pictures of real people too")
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.FATAL)  # as tvconv_jax.main does
    with ends_in_one_line("the report is as it was."):
        print(f"wrote {remake(args.workdir, pictures=args.pictures)}")


if __name__ == "__main__":
    main()
