"""The report of a run: the sections of every run, and the results of its task."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tvconv_jax.report import classification, face, others, plots
from tvconv_jax.report.html import (
    NAME,
    Figure,
    Html,
    Section,
    code_block,
    details,
    image,
    joined,
    map_strip,
    page,
    paragraphs,
    table,
    tag,
)
from tvconv_jax.utils.files import write_text
from tvconv_jax.utils.sizes import describe_size

Settings = dict[str, Any]
TASKS = {
    "face": "Face verification",
    "segmentation": "Optic disc and cup",
    "frontal": "Frontal or profile",
    "classification": "Classification",
}


def shows_images(config: ConfigDict) -> bool:
    """Return whether a report may hold images of the data: they are synthetic, or ``eval.report_images`` is set.

    Reports are passed on, so images of real people are in a report only on request.
    """
    return bool(config.eval.report_images) or config.data.source == "embedded"


def write_report(workdir: Path, config: ConfigDict, data: Any, sets: Mapping[str, Any] | None = None) -> None:
    """Write ``report.html`` from the files of a run that ended.

    Args:
        workdir: Folder of the run, with ``results.json`` and ``metrics.jsonl``.
        config: The run's config.
        data: Arrays as of :class:`tvconv_jax.tasks.report_data.ReportData`.
        sets: For the worst images: verification sets of a face run by name, each a source of images and the pairs of
            them; of a classification run the source of the test images as ``"test"``; ``None``: not available.
    """
    settings = json.loads(config.to_json())
    results = json.loads((workdir / "results.json").read_text())
    metrics = plots.read_metrics((workdir / "metrics.jsonl").read_text().splitlines())
    if settings["task"] == "face":
        result = face.describe(results, data.cosines, data.same, sets, images=shows_images(config))
    elif settings["task"] == "segmentation":
        describe = others.segmentation if "test_domain" in results else others.masks
        result = describe(results, workdir, images=shows_images(config))
    elif settings["task"] == "classification":
        result = classification.describe(results, data.test, sets, images=shows_images(config))
    else:
        result = others.frontal(results)
    text, figures, sections = result
    sections = [
        *sections,
        Section(
            "curves",
            "Training",
            plots.charts(metrics, data.learning_rates, margin="margin" in settings.get("loss", {})),
        ),
        *_affinity(data.affinity, settings),
        Section("cost", "Cost and sizes", _cost(results, settings, workdir)),
        Section("rerun", "How to run it again", rerun(results, workdir)),
        Section("config", "Config and versions", _config(settings, results["versions"])),
    ]
    named = "Segmentation" if "classes" in results and settings["task"] == "segmentation" else TASKS[settings["task"]]
    title = f"{named}: {_model_name(settings)}, seed {settings['seed']}"
    lead = f"{_trained(settings, results)} {text}"
    write_text(workdir / NAME, page(title, lead, [*figures, *cost_figures(results, metrics)], sections))


def _model_name(settings: Settings) -> str:
    """Return a name such as ``mobilenetv2 x0.1 with tvconv``."""
    model = settings["model"]
    width = f" x{model['width']}" if "width" in model else ""
    operator = "" if model["operator"] == "baseline" else f" with {model['operator']}"
    return f"{model['name']}{width}{operator}"


def _trained(settings: Settings, results: Mapping[str, Any]) -> str:
    size, epochs = describe_size(settings["data"]["image_size"]), settings["optimizer"]["epochs"]
    return (
        f"{_model_name(settings)} was trained from seed {settings['seed']} for {epochs:g} epochs on images of "
        f"{size}: {results['data'].removeprefix('data: ')}."
    )


def cost_figures(results: Mapping[str, Any], metrics: plots.Metrics) -> list[Figure]:
    """Return cost and speed, as far as they are known."""
    shown = []
    if cost := results.get("complexity"):
        shown = [
            Figure(_short(cost["macs"]), "MACs per image"),
            Figure(_short(cost["params"]), "parameters, frozen"),
        ]
    if results["images_per_second"]:
        shown.append(Figure(f"{results['images_per_second']:,.0f}", "images/s in training"))
    return [*shown, Figure(f"{max([line['step'] for line in metrics] or [0]):,}", "training steps")]


def _affinity(maps: Mapping[str, np.ndarray], settings: Settings) -> list[Section]:
    """Return the affinity maps of every layer; no section where the operator has none."""
    if not maps:
        return []
    tiles = []
    for layer, values in maps.items():
        height, width, count = values.shape
        name = layer.removesuffix("/conv")
        low, high = float(values.min()), float(values.max())
        digits = 2 if high == low else max(2, 1 - math.floor(math.log10(high - low)))  # enough to distinguish them
        grid = f" {height}x{width}, {low:.{digits}f} (black) to {high:.{digits}f} (white)"
        shown = image(map_strip(values), f"{count} affinity maps of {name}", class_="pixels")
        tiles.append(tag("figure", tag("figcaption", tag("b", name), grid), shown))
    start = settings["model"].get("affinity_init", "ones")
    init = "They start at 1 everywhere, so all structure is learned" if start == "ones" else f"Start: {start}"
    text = (
        f"Every layer learns a few maps of its own grid. A pixel's kernels are generated from their values at and "
        f"around it. {init}. The gray scale of a layer covers all its maps. Layers are in order from the largest grid "
        f"to the smallest."
    )
    return [Section("affinity", "Affinity maps", joined([paragraphs(text), tag("div", *tiles, class_="tiles")]))]


def _cost(results: Mapping[str, Any], settings: Settings, workdir: Path) -> Html:
    size, rows = describe_size(settings["data"]["image_size"]), []
    if cost := results.get("complexity"):
        rows = [
            ["MACs per image", f"{cost['macs']:,}", f"at {size}"],
            ["parameters of the frozen model", f"{cost['params']:,}", _float32(cost["params"])],
            ["parameters in training", f"{cost['train_params']:,}", _float32(cost["train_params"])],
        ]
    if results["images_per_second"]:
        rows.append(["images/s in training", f"{results['images_per_second']:,}", results["device"]])
    saved = [path for path in workdir.glob("checkpoints/last/*") if path.name.isdecimal()]
    if saved:
        newest = max(saved, key=lambda path: int(path.name))
        total = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
        rows.append(["checkpoint on disk", f"{total / 1e6:.1f} MB", "with the optimizer's state"])
    note = "In training a model holds kernel generators; a frozen model holds the kernels of all pixels instead."
    return joined([table("Cost", ["quantity", "value", "note"], rows, words=(0, 2)), paragraphs(note)])


def _float32(numbers: int) -> str:
    return f"{numbers * 4 / 1e6:.2f} MB as float32"


def rerun(results: Mapping[str, Any], workdir: Path) -> Html:
    """Return the commands that repeat the run, evaluate it and write its report."""
    command, again = results.get("command"), shlex.join(["python", "-m", "tvconv_jax.report", str(workdir)])
    if not command:
        text = "The command of this run was not recorded; the config below has all its settings."
        return joined([paragraphs(text, "To write this report again:"), code_block(again)])
    single = command.startswith("python -m tvconv_jax.main ")  # commands that train several runs have other options
    elsewhere = [" To train again from the start, give another ", tag("code", "--workdir"), "."] if single else []
    same = " On the same kind of machine with the versions below, the losses are identical."
    return joined(
        [
            paragraphs("The command, to be run in the project's folder:"),
            code_block(command),
            tag("p", "It resumes where a run stopped.", *elsewhere, same),
            paragraphs(f"To {'evaluate the best checkpoint and ' if single else ''}write this report again:"),
            code_block(f"{command} --mode=eval\n{again}" if single else again),
        ]
    )


def _config(settings: Settings, versions: Mapping[str, str]) -> Html:
    keys = [[key, tag("code", value)] for key, value in sorted(flatten_dict(settings, sep=".").items())]
    return joined(
        [
            table("Versions", ["package", "version"], list(map(list, versions.items())), words=(0, 1)),
            details(f"Config, {len(keys)} keys", table("Config", ["key", "value"], keys, words=(0, 1)), open_=True),
        ]
    )


def _short(value: float) -> str:
    """Return a number such as ``5.82 M`` or ``9.9 K``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g}"
