"""The output file: one JSON line a figure, written at once, so that a run that is cut off keeps what it has."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tvconv_jax.bench.gpu.item import Item
from tvconv_jax.utils.environment import versions
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import as_json, parse_json

FILE = "bench_gpu.jsonl"  # in the folder of --out


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the lines of an output file; a last line that was cut off is left out.

    Raises:
        UserError: If it cannot be read, or another line is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file of `bench gpu --out`.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line) if line.strip() else None
            if row is not None and not (isinstance(row, dict) and isinstance(row.get("what"), str)):
                raise ValueError("not an object with `what`")
        except ValueError:  # text that is not UTF-8, too
            if number == len(lines):
                break
            raise UserError(f"{path}:{number} is not a line of `bench gpu`; remove it, or name another file.") from None
        rows += [row] if row else []
    return rows


def commit() -> str | None:
    """Return the commit of the checkout that runs, ``-dirty`` with changes; ``None`` if git does not know it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class Record:
    """The file of a run, and the lines of earlier runs of the same code on the same machine."""

    def __init__(self, folder: Path, *, commit: str | None, tiny: bool) -> None:
        self._path, self._begin = folder / FILE, time.monotonic()
        self.rows = read_rows(self._path) if self._path.exists() else []
        known = {name: version for name, version in versions("torch").items() if version != "not installed"}
        self._about: dict[str, Any] = {"device": None, "versions": known, "commit": commit, "tiny": tiny}
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._drop_cut_off_line()

    def _drop_cut_off_line(self) -> None:
        """Remove what stands behind the last line end: a line of a run that was killed."""
        with self._path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def set_device(self, device: str) -> None:
        """Take the device's name for the lines that follow."""
        self._about["device"] = device

    def add(self, what: str, **figures: Any) -> None:
        """Append a line to the file, and print it."""
        row = {"what": what, **figures, "t": round(time.monotonic() - self._begin, 1), **self._about}
        line = as_json(row)
        with self._path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
        self.rows.append(json.loads(line))

    def ours(self) -> list[dict[str, Any]]:
        """Return the lines of the same code, versions and device."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in self._about.items())]

    def missing(self, sets: list[list[Item]]) -> list[list[Item]]:
        """Return the items without a line; those whose line is an error come last, each alone."""
        rows = self.ours()

        def state(item: Item) -> str:
            lines = [row for row in rows if item.is_in(row)]
            return "missing" if not lines else "failed" if all("error" in row for row in lines) else "measured"

        states = [[(item, state(item)) for item in items] for items in sets]
        fresh = [[item for item, found in items if found == "missing"] for items in states]
        failed = [[item] for items in states for item, found in items if found == "failed"]
        return [items for items in fresh if items] + failed
