"""The evidence as Markdown: sets, scores, leads over the depthwise convolution, learning rates, cost."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tvconv_jax.experiments.evidence import figures
from tvconv_jax.experiments.evidence.record import Line, Record
from tvconv_jax.experiments.evidence.results import BASE, FAILED, Cell, cell, curve, sets_of, variants_in
from tvconv_jax.tasks import rates
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_text

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"  # in a page, lines around what is written anew
NONE = "–"
COMMON = (0.001, 0.01, 0.1)  # learning rates that every variant was tried at
Cells = dict[tuple[str, str], Cell | None]


def show(record: Record, page: Path | None, folder: Path | None) -> None:
    """Print the tables; also write them into a page, and the plots into a folder.

    Raises:
        UserError: If there is no run, or the page has no marked place.
    """
    text = text_of(record)
    print(text)
    if page:
        write_text(page, replaced(page, text))
    if folder:
        for file in figures.draw(record, *_gathered(record), folder):
            print(f"wrote {file}")


def text_of(record: Record) -> str:
    """Return all tables of a record; raise a ``UserError`` if it has no run."""
    if not sets_of(record):
        raise UserError(f"{record.file} holds no run; give --data to make some.")
    return markdown(record, *_gathered(record))


def _gathered(record: Record) -> tuple[list[Line], list[str], Cells]:
    sets, variants = sets_of(record), variants_in(record)
    cells = {(about["set"], variant): cell(record, about, variant) for about in sets for variant in variants}
    return sets, variants, cells


def replaced(page: Path, text: str) -> str:
    """Return a page with other text between the lines :data:`BEGIN` and :data:`END`.

    Raises:
        UserError: If the page does not hold them, once each.
    """
    whole = page.read_text() if page.exists() else ""
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(END) < whole.index(BEGIN):
        raise UserError(f"{page} has no place for the tables; write the lines {BEGIN} and {END} there.")
    return f"{whole.partition(BEGIN)[0]}{BEGIN}\n\n{text}\n{END}{whole.partition(END)[2]}"


def markdown(record: Record, sets: Sequence[Line], variants: Sequence[str], cells: Cells) -> str:
    """Return all tables."""
    leads = [variant for variant in variants if variant != BASE]
    parts = [
        ("The sets, the most fixed layout first:", _sets(sets)),
        ("Score in percent, mean and standard deviation over seeds:", _grid(sets, variants, cells, _score)),
        (
            f"Lead over `{BASE}` in points, with 95 % intervals (bold where 0 is outside):",
            _grid(sets, leads, cells, _lead),
        ),
        (
            f"Final runs that hardly learned: {100 * FAILED:.0f} points or more below the best seed of the same cell:",
            _failures(variants, cells),
        ),
        ("Learning rate chosen, for `pretrained` the inverse regularization:", _grid(sets, variants, cells, _rate)),
        ("Lead of `tvconv` over `depthwise` on the held-out images, by learning rate:", _trap(record, sets)),
        (
            "Held-out score at the learning rate that a run on own data chooses, minus the best of the rates tried, in "
            "points:",
            _defaults(record, sets),
        ),
        ("Millions of MACs of an image; thousands of frozen parameters:", _grid(sets, variants, cells, _cost)),
        ("Measured with:", _conditions(record)),
    ]
    return "\n".join(f"{title}\n\n{table}\n" for title, table in parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _grid(sets: Sequence[Line], variants: Sequence[str], cells: Cells, write: Callable[[Cell], str]) -> str:
    names = [about["set"] for about in sets]
    rows = [
        [f"`{variant}`", *(write(found) if (found := cells[name, variant]) else NONE for name in names)]
        for variant in variants
    ]
    return _table(["", *names], rows)


def _sets(sets: Sequence[Line]) -> str:
    head = ["set", "what", "explained by the mean image", "size", "trained on", "tested on", "score"]
    rows = []
    for about in sets:
        height, width = about["image_size"]
        tested = f"{about['images']['test']:,} images"
        tested += f" in {about['items']:,} pairs" if about["task"] == "verification" else ""
        tested += ", other persons" if about["by_person"] else ""
        share, images = f"{about['explained']:.2f}", f"{about['images']['train']:,} images"
        what = (about["set"], about["about"], share, f"{height}x{width}", images, tested, about["measure"])
        rows.append(list(what))
    return _table(head, rows)


def _score(found: Cell) -> str:
    spread = f" ± {100 * found.std:.1f}" if len(found.scores) > 1 else ""
    return f"{100 * found.mean:.1f}{spread}"


def _lead(found: Cell) -> str:
    if found.lead is None:
        return NONE
    mean, low, high = (f"{100 * number:+.1f}" for number in found.lead)
    bold = "**" if found.lead.low > 0 or found.lead.high < 0 else ""
    return f"{bold}{mean}{bold} [{low}, {high}]"


def _failures(variants: Sequence[str], cells: Cells) -> str:
    rows = []
    for variant in variants:
        found = [one for (_, name), one in cells.items() if name == variant and one and len(one.scores) > 1]
        if found:
            runs = sum(len(one.scores) for one in found)
            rows.append([f"`{variant}`", f"{sum(one.failed for one in found)} of {runs}"])
    return _table(["", "runs"], rows)


def _rate(found: Cell) -> str:
    return f"{found.rate:g}"


def _cost(found: Cell) -> str:
    return f"{found.macs / 1e6:.2f}; {found.params / 1e3:,.0f}"


def _trap(record: Record, sets: Sequence[Line]) -> str:
    """Compare both operators at common learning rates, and each at its best one."""
    rows = []
    for about in sets:
        scores = [dict(zip(*curve(record, about["set"], name), strict=True)) for name in ("tvconv", BASE)]
        if not all(scores):
            continue
        tvconv, base = scores
        shared = [f"{100 * (tvconv[r] - base[r]):+.1f}" if r in tvconv and r in base else NONE for r in COMMON]
        rows.append([about["set"], *shared, f"{100 * (max(tvconv.values()) - max(base.values())):+.1f}"])
    return _table(["set", *(f"both at {rate:g}" for rate in COMMON), "each at its best"], rows)


def _defaults(record: Record, sets: Sequence[Line]) -> str:
    """Compare the default learning rates with the best ones."""
    rows = []
    for about in sets:
        if about["task"] == "verification":  # its default optimizer is another one
            continue
        row = [about["set"]]
        for operator in (BASE, "tvconv"):
            rate = rates.MASKS if about["task"] == "segmentation" else rates.of_classes(operator)
            scores = dict(zip(*curve(record, about["set"], operator), strict=True))
            row.append(f"{100 * (scores[rate] - max(scores.values())):+.1f} at {rate:g}" if rate in scores else NONE)
        rows.append(row)
    return _table(["set", f"`{BASE}`", "`tvconv`"], rows)


def _conditions(record: Record) -> str:
    lines = []
    for line in record.lines["command"].values():
        settings = ", ".join(f"{name} {value}" for name, value in line["settings"].items())
        lines.append(f"- {line['device']}; jax {line['versions']['jax']}; {settings}")
    seconds = sum(line["seconds"] for kind in ("rate", "final") for line in record.lines[kind].values())
    runs = sum(len(record.lines[kind]) for kind in ("rate", "final"))
    seeds = sorted({line["seed"] for line in record.lines["final"].values()})
    return "\n".join([*lines, f"- {runs} runs, {seconds / 3600:.1f} hours on one core each; seeds {seeds}"])
