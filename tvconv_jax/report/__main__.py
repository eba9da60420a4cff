"""``python -m tvconv_jax.report WORKDIR``: write the report of a run that ended again."""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tvconv_jax.report.html import NAME
from tvconv_jax.report.plots import read_metrics
from tvconv_jax.tasks import load_task, report_data
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.training.checkpoint_files import check_reachable
from tvconv_jax.utils.cli import Parser, ends_in_one_line, path_argument
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json


def remake(workdir: Path, *, images: bool = False) -> Path:
    """Write the report of a workdir again.

    A run of an older version left no ``report.npz``: its last checkpoint is restored and evaluated for that.

    Args:
        workdir: Folder of the run.
        images: Whether to show images of the data whatever ``eval.report_images`` was.

    Returns:
        The report.

    Raises:
        UserError: If the folder holds no run that ended, or its checkpoint or data is needed and missing.
    """
    check_reachable(workdir, "WORKDIR")
    config = read_config(workdir)
    task = load_task(config.task)
    if not (workdir / "results.json").exists():
        raise UserError(f"{workdir} holds no results.json: the run has not ended; rerun its command to resume it.")
    _check_files(workdir)
    config.eval.report_images = images or config.eval.get("report_images", False)
    task.report(config, workdir.absolute())
    return workdir / NAME


def _check_files(workdir: Path) -> None:
    """Raise a ``UserError`` if a file that the report reads is damaged."""
    rerun = "the command that trained the run"
    checks = {
        "results.json": (lambda file: parse_json(file.read_text()), f"remove it, and {rerun} writes it"),
        "metrics.jsonl": (lambda file: read_metrics(file.read_text().splitlines()), f"{rerun} drops its damaged lines"),
        report_data.NAME: (lambda file: report_data.load(file.parent), "remove it, and the run is evaluated again"),
    }
    for name, (parse, hint) in checks.items():
        file = workdir / name
        try:
            parse(file)
        except (OSError, ValueError, KeyError):
            raise UserError(f"{file} is {'damaged' if file.exists() else 'missing'}; {hint}.") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    about = "Write WORKDIR/report.html again."
    parser = Parser(prog="python -m tvconv_jax.report", description=about, renamed={"--pictures": "--images"})
    parser.add_argument("workdir", type=path_argument, metavar="WORKDIR", help="folder of a run that ended")
    parser.add_argument("--images", action="store_true", help="show images of the data too")
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.FATAL)  # as tvconv_jax.main does
    with ends_in_one_line("the report is as it was."):
        print(f"wrote {remake(args.workdir, images=args.images)}")


if __name__ == "__main__":
    main()
