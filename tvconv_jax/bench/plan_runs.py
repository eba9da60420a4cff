"""Plans of several models and devices, each made once for a commit of the code."""

import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from tvconv_jax.bench.targets import find_target, require_plugin
from tvconv_jax.utils.files import read_json
from tvconv_jax.utils.progress import minutes, reporter
from tvconv_jax.utils.tether import tethered

ROOT = Path(__file__).parents[2]
CODE = ("tvconv_jax", "configs")  # what a plan depends on
MODELS = {"mb01": "MB x0.1", "mb10": "MB x1.0", "sf05": "SF x0.5"}


class Row(NamedTuple):
    """One plan: a model on a kind of device, at 96x96 with 512 images a step."""

    model: str  # a key of MODELS
    kind: str  # of --device-kind
    identities: int = 10_000
    sharded: int = 1  # devices over which the class weights are sharded
    operator: str = "tvconv"
    precision: str = "float32"

    @property
    def name(self) -> str:
        """Name of the plan's folder."""
        return "_".join(map(str, self)).replace(":", "-")

    def command(self, workdir: Path) -> list[str]:
        """Return the arguments after ``python`` that make the plan."""
        return [
            *("-m", "tvconv_jax.main", "--mode=plan"),
            f"--config=configs/face_{self.model}.py:data=folder,operator={self.operator}",
            f"--config.train.precision={self.precision}",
            f"--config.mesh.model={self.sharded}",
            f"--device-kind={self.kind}",
            f"--identities={self.identities}",
            f"--workdir={workdir}",
        ]


def _make(row: Row, workdir: Path) -> None:
    """Make a plan in a process of its own, whose output goes to ``plan.txt`` beside ``plan.json``."""
    workdir.mkdir(parents=True, exist_ok=True)
    command = tethered([sys.executable, *row.command(workdir)])
    with (workdir / "plan.txt").open("w") as output, reporter.doing(row.name):
        done = subprocess.run(command, cwd=ROOT, stdout=output, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def code_commit() -> str:
    """Return the last commit that changed the code, with ``-dirty`` behind it if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments, "--", *CODE], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("log", "-1", "--abbrev=10", "--format=%h") or "unknown"
    return f"{commit}-dirty" if commit == "unknown" or git("status", "--porcelain") else commit


def plan_rows(rows: Iterable[Row], runs: Path) -> list[dict[str, Any]]:
    """Return the plans of the rows, each with its ``row``, ``commit`` and ``date``; make those that ``runs`` lacks.

    Code that differs from its commit is planned again each time.

    Raises:
        UserError: If a plugin is missing.
        SystemExit: If a plan fails, with its code; the plans before it are kept.
    """
    rows, commit, begin = list(rows), code_commit(), time.monotonic()
    for row in rows:
        require_plugin(find_target(row.kind))
    plans, made = [], 0
    for number, row in enumerate(rows, start=1):
        workdir = runs / commit / row.name
        if commit.endswith("-dirty") or not (workdir / "plan.json").exists():
            print(f"plan {number} of {len(rows)}, {minutes(time.monotonic() - begin)} so far: {row.name}", flush=True)
            _make(row, workdir)
            made += 1
        plan = read_json(workdir / "plan.json", "remove it, and it is planned again")
        made_on = date.fromtimestamp((workdir / "plan.json").stat().st_mtime).isoformat()
        plans.append({"row": row._asdict(), "commit": commit, "date": made_on} | plan)
    print(f"{len(rows)} plans of {commit}, {made} of them made now in {minutes(time.monotonic() - begin)}", flush=True)
    return plans
