"""Sections of a report that every job has."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.report.html import Html, details, joined, table, tag
from tvconv_jax.report.images import image, map_strip
from tvconv_jax.report.page import Figure, Section, paragraphs
from tvconv_jax.training import steps

Settings = dict[str, Any]
TASKS = {
    "face": "Face verification",
    "segmentation": "Optic disc and cup",
    "frontal": "Frontal or profile",
}


def model_name(settings: Settings) -> str:
    """``mobilenetv2 x0.1 with tvconv``."""
    model = settings["model"]
    width = f" x{model['width']}" if "width" in model else ""
    operator = "" if model["operator"] == "baseline" else f" with {model['operator']}"
    return f"{model['name']}{width}{operator}"


def title(settings: Settings) -> str:
    """Of the page."""
    return f"{TASKS[settings['task']]}: {model_name(settings)}, seed {settings['seed']}"


def trained(settings: Settings, results: Mapping[str, Any]) -> str:
    """What was trained, on what, in a sentence."""
    side = settings["data"]["image_size"]
    epochs = settings["optimizer"]["epochs"]
    return (
        f"{model_name(settings)} was trained from seed {settings['seed']} for {epochs:g} epochs on pictures of "
        f"{side}x{side}: {results['data'].removeprefix('data: ')}."
    )


def figures(results: Mapping[str, Any], metrics: list[dict[str, float]]) -> list[Figure]:
    """Cost and speed, large."""
    shown = []
    if "complexity" in results:
        cost = results["complexity"]
        shown = [
            Figure(short(cost["macs"]), "MACs a picture"),
            Figure(short(cost["params"]), "parameters, frozen"),
        ]
    steps = max([line["step"] for line in metrics] or [0])
    if results["images_per_second"]:
        shown.append(Figure(f"{results['images_per_second']:,.0f}", "pictures a second in training"))
    return [
        *shown,
        Figure(f"{steps:,}", "steps of training"),
    ]


def affinity(maps: Mapping[str, np.ndarray], settings: Settings) -> list[Section]:
    """The affinity maps of every layer; no section where the operator has none."""
    if not maps:
        return []
    tiles = []
    for layer, values in maps.items():
        height, width, count = values.shape
        name = layer.removesuffix("/conv")
        picture = image(map_strip(values), f"{count} affinity maps of {name}", class_="pixels")
        low, high = float(values.min()), float(values.max())
        digits = 2 if high == low else max(2, 1 - math.floor(math.log10(high - low)))  # enough to tell them apart
        grid = f" {height}x{width}, {low:.{digits}f} (black) to {high:.{digits}f} (white)"
        tiles.append(tag("figure", tag("figcaption", tag("b", name), grid), picture))
    start = settings["model"].get("affinity_init", "ones")
    began = "They start at 1 everywhere: what is to be seen here was learnt" if start == "ones" else f"Start: {start}"
    text = (
        "Every layer learns a few maps of its own grid; from their values at a pixel and around it come the kernels of "
        f"that pixel. {began}. Grays are of one layer, over "
        "all its maps; layers come from the largest grid to the smallest."
    )
    return [Section("affinity", "Affinity maps", joined([paragraphs(text), tag("div", *tiles, class_="tiles")]))]


def cost(results: Mapping[str, Any], settings: Settings, workdir: Path) -> Html:
    """What the model costs, and the run's files."""
    side = settings["data"]["image_size"]
    rows = []
    if "complexity" in results:
        numbers = results["complexity"]
        rows = [
            ["MACs for a picture", f"{numbers['macs']:,}", f"at {side}x{side}"],
            ["parameters of the frozen model", f"{numbers['params']:,}", _float32(numbers["params"])],
            ["parameters that were trained", f"{numbers['train_params']:,}", _float32(numbers["train_params"])],
        ]
    if results["images_per_second"]:
        rows.append(["pictures a second in training", f"{results['images_per_second']:,}", results["device"]])
    saved = steps.found(workdir / "checkpoints" / "last")
    if saved:
        size = sum(file.stat().st_size for file in saved[max(saved)].rglob("*") if file.is_file())
        rows.append(["checkpoint on disk", f"{size / 1e6:.1f} MB", "with the optimizer's state"])
    note = "What was trained holds generators of kernels; a frozen model holds the kernels of all pixels instead."
    return joined([table("What it costs", ["what", "how much", "note"], rows, words=(0, 2)), paragraphs(note)])


def _float32(numbers: int) -> str:
    return f"{numbers * 4 / 1e6:.2f} MB as float32"


def rerun(results: Mapping[str, Any], workdir: Path) -> Html:
    """The command that made the run, and those that look at it again."""
    command = results.get("command")
    if not command:
        first = "Which command started this run was not recorded; the config below says all that it was given."
        return joined([paragraphs(first), tag("p", "This file again:"), command_block(again(workdir))])
    alone = command.startswith("python -m tvconv_jax.main ")  # what trains several runs has other options
    anew = joined(["; with another ", tag("code", "--workdir"), " it trains anew"]) if alone else ""
    same = ". On the same kind of machine, and with the versions below, the losses are the same."
    return joined(
        [
            tag("p", "The command, as it was given, from the folder of the project:"),
            command_block(command),
            tag("p", "It goes on where a run stopped", anew, same),
            tag("p", "The best checkpoint measured again, and this file again:" if alone else "This file again:"),
            command_block(f"{command} --mode=eval\n{again(workdir)}" if alone else again(workdir)),
        ]
    )


def again(workdir: Path) -> str:
    """The command that makes the report."""
    return shlex.join(["python", "-m", "tvconv_jax.report", str(workdir)])


def config(settings: Settings, versions: Mapping[str, str]) -> Html:
    """Every key with its value, and what computed."""
    keys = [[key, tag("code", value)] for key, value in _flat(settings)]
    return joined(
        [
            table("Versions", ["package", "version"], list(map(list, versions.items())), words=(0, 1)),
            details(f"Config, {len(keys)} keys", table("Config", ["key", "value"], keys, words=(0, 1)), open_=True),
        ]
    )


def _flat(tree: Settings, prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in sorted(tree.items()):
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat


def command_block(text: str) -> Html:
    """A command to copy."""
    return tag("pre", tag("code", text), tabindex="0")


def short(value: float) -> str:
    """``5.82 M``, ``9.9 K``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g}"
