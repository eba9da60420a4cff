"""Markdown tables of an output file: the newest line of every figure, by machine and code."""

import json
from collections.abc import Iterable
from typing import Any

from tvconv_jax.bench.gpu.item import MODES, OPERATORS
from tvconv_jax.utils.errors import UserError

Row = dict[str, Any]
PASSES = {"forward": "forward", "input_gradient": "gradient of the input", "weight_gradient": "gradient of the weights"}
# That tell an item from all others.
SETTINGS = ("what", "reason", "side", "mode", "model", "width", "operator", "shape", "precision", "seed", "asked_rate")
DASH = "-"  # of a figure that is missing


def page(rows: list[Row]) -> str:
    """Return the tables of all lines, a part for each machine and code that measured them.

    Raises:
        UserError: If there is no figure, or a line is not one of this command.
    """
    parts: dict[str, list[Row]] = {}
    for row in rows:
        about = {name: row.get(name) for name in ("device", "commit", "versions", "tiny")}
        parts.setdefault(json.dumps(about, sort_keys=True), []).append(row)
    if not parts:
        raise UserError("the file holds no figures; measure some with `bench gpu --out=DIR`.")
    try:
        return "\n\n".join(_part(part) for part in parts.values())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"a line of the file lacks figures ({reason}); name a file of `bench gpu --out`.") from None


def _part(rows: list[Row]) -> str:
    sections = (_copies, _operators, _steps, _accuracies, _problems)
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in (first.get("versions") or {}).items())
    note = f"*Measured on {first.get('device')} with {versions}, commit {first.get('commit') or 'unknown'}.*"
    if first.get("tiny"):
        note += "\n\n**Tiny sizes: these figures mean nothing.**"
    return "\n\n".join(filter(None, [*(section(rows) for section in sections), note]))


def _of(rows: list[Row], what: str, *names: str) -> dict[tuple, Row]:
    """Return the newest line without an error of each combination of some settings."""
    found = [row for row in rows if row["what"] == what and "error" not in row]
    return {tuple(_hashable(row.get(name)) for name in names): row for row in found}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _table(title: str, head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, body)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join([f"### {title}\n", *(f"| {' | '.join(line)} |" for line in lines)])


def _copies(rows: list[Row]) -> str:
    found = _of(rows, "copy", "precision")
    body = [
        (precision, f"{row['gb_per_s']:,.0f}", f"{row['read_bytes'] / 1e6:,.0f}", f"{row['launch_us']:.1f}")
        for (precision,), row in found.items()
    ]
    return _table("Copy", ("precision", "GB/s", "MB read", "launch, µs"), body) if body else ""


def _operators(rows: list[Row]) -> str:
    found = _of(rows, "operator", "shape", "operator", "precision")
    body = []
    for (shape, operator, precision), row in found.items():
        cells = [_pass_cell(row.get(name, {})) for name in PASSES]
        body.append((operator, ",".join(map(str, shape)), precision, *cells, f"{row['copy_gb_per_s']:,.0f}"))
    head = ("operator", "n,h,w,c,stride", "precision", *PASSES.values(), "GB/s of the copy")
    return _table("Operators: share of a copy of the same bytes (µs)", head, body) if body else ""


def _pass_cell(figures: Row) -> str:
    if "us" not in figures:
        return "failed" if "error" in figures else DASH
    cell = f"{figures['share_of_copy']:.0%} ({figures['us']:,.0f})"
    return f"**wrong** {cell}" if "error" in figures else cell


def _steps(rows: list[Row]) -> str:
    settings = ("model", "width", "operator", "precision", "batch")
    found = _of(rows, "step", "side", "mode", *settings)
    copies = {precision: row["gb_per_s"] for (precision,), row in _of(rows, "copy", "precision").items()}
    body = []
    for about in dict.fromkeys(key[2:] for key in found):
        ours = _speed(found.get(("ours", None, *about)))
        theirs = [_speed(found.get(("PyTorch", mode, *about))) for mode in MODES]
        best = max(filter(None, theirs), default=None)
        model, width, operator, precision, batch = about
        step = found.get(("ours", None, *about), {})
        compiled = step.get("compile_s")
        ratio = f"{ours / best:.2f}x" if ours and best else DASH
        cells = [_count(ours), *map(_count, theirs), ratio, DASH if compiled is None else f"{compiled:.0f}"]
        cells += _program_cells(step, copies.get(precision))
        body.append((f"{model} x{width}", operator, precision, str(batch), *cells))
    modes = [f"PyTorch, {mode}" for mode in MODES]
    head = ("model", "operator", "precision", "batch", "ours", *modes, "over PyTorch's best", "compiled in s")
    head += ("kernels", "GB a step", "GB/s as a share of a copy")
    return _table("Training steps: images/s", head, body) if body else ""


def _program_cells(step: Row, copy: float | None) -> list[str]:
    """Return kernels and gigabytes of a step's program, and the share of a copy's speed at which it moved them."""
    if "moved_bytes" not in step:
        return [DASH] * 3
    share = f"{step['gb_per_s'] / copy:.0%}" if copy else DASH
    return [f"{step['kernels']:,}", f"{step['moved_bytes'] / 1e9:.1f}", share]


def _speed(row: Row | None) -> int | None:
    return row["images_per_s"] if row else None


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _accuracies(rows: list[Row]) -> str:
    found = _of(rows, "accuracy", "faces", "epochs", "operator", "seed", "learning_rate")
    body = []
    for (_, epochs, operator, seed, learning_rate), row in found.items():
        accuracy = DASH if row["accuracy"] is None else f"{row['accuracy']:.2f} ± {row['std']:.2f}"
        loss = DASH if row["loss"] is None else f"{row['loss']:.3f}"
        cells = (str(learning_rate), loss, accuracy, f"{row['images_per_s']:,}", f"{row['seconds']:.0f}")
        body.append((operator, str(seed), f"{epochs:g}", *cells))
    head = ("operator", "seed", "epochs", "learning rate", "training loss", "accuracy %, folds", "images/s", "seconds")
    return (
        _table("Faces: MobileNetV2 x0.1", head, sorted(body, key=lambda row: OPERATORS.index(row[0]))) if body else ""
    )


def _problems(rows: list[Row]) -> str:
    """List what was skipped, and the newest line of each item if it holds an error."""
    newest: dict[str, list[str]] = {}
    for row in rows:
        about = [str(row[key]) for key in SETTINGS if row.get(key) is not None]
        errors = [("", row["error"])] if "error" in row else []
        passes = {key: row[key] for key in PASSES if isinstance(row.get(key), dict)}
        errors += [(f", {PASSES[key]}", found["error"]) for key, found in passes.items() if "error" in found]
        lines = [f"- {' '.join(about)}{part}: {error}" for part, error in errors]
        newest[" ".join(about)] = [f"- {row['reason']}"] if row["what"] == "skipped" else lines
    lines = sum(newest.values(), [])
    return "### Not measured, or wrong\n\n" + "\n".join(lines) if lines else ""
