"""Figures of runs and sweeps: the numbers that are drawn, the files, and mistakes."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tvconv_jax.experiments import curve_figures, figures, map_figures, set_figures, sweep_figures
from tvconv_jax.experiments.set_figures import (
    choose_layer,
    features_of,
    layers_of,
    measure_pixels,
    measure_variance,
    open_sets,
)
from tvconv_jax.experiments.sweep import load_sweep
from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.report.plot_style import spread_apart
from tvconv_jax.tasks.finetune import read_checkpoint
from tvconv_jax.tasks.trained import load
from tvconv_jax.training.maps import map_files
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import read_arrays


def test_a_run_leaves_the_maps_of_every_evaluation_and_of_the_start(finished):
    workdir, _ = finished
    files = map_files(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if "score" in line]
    assert len(evaluated) == 3 and list(files) == [0, *evaluated]
    assert files[0].name == "step_00000000.npz" and not list(workdir.rglob("*.part"))
    start, end = read_arrays(files[0]), read_arrays(files[evaluated[-1]])
    assert list(start) == list(end) == ["block_1/conv"]  # the one stage that :smoke gives to TVConv
    np.testing.assert_array_equal(start["block_1/conv"], np.ones((24, 24, 4), np.float32))
    saved = read_checkpoint(workdir, kinds=("last",))[1]["params/model/block_1/conv/affinity"]
    np.testing.assert_array_equal(end["block_1/conv"], saved)
    assert np.std(saved) > 0


def drawn(*arguments):
    """Files that a command line wrote."""
    figures.main([str(argument) for argument in arguments])
    out = next(Path(str(argument).removeprefix("--out=")) for argument in arguments if "--out=" in str(argument))
    return sorted(file.name for file in out.iterdir())


@pytest.fixture
def error(refusal):
    return functools.partial(refusal, figures.main)


def sweep_folder(folder, *runs):
    """A sweep's folder of (group, label, MACs in millions, accuracies by seed in percent)."""
    folder.mkdir()
    lines = [
        {"group": group, "label": label, "seed": seed, "complexity": {"macs": macs * 1e6}, "mean_accuracy": value / 100}
        for group, label, macs, accuracies in runs
        for seed, value in enumerate(accuracies)
    ]
    (folder / "sweep.json").write_text(json.dumps(lines))
    return folder


def test_a_sweeps_outcomes_are_means_over_seeds_and_folders_are_pooled(tmp_path):
    first = sweep_folder(tmp_path / "a", ("g", "tvconv", 5, [80, 84]), ("", "other", 7, [70]))
    second = sweep_folder(tmp_path / "b", ("g", "tvconv", 5, [80, 84, 88]))  # goes on where the first one was
    tvconv, other = read_sweeps([first, second])
    assert tvconv[:6] == ("g", "tvconv", 5, pytest.approx(84), pytest.approx(np.sqrt(32 / 3)), 3)  # -4, 0 and 4
    assert tvconv.by_seed == pytest.approx({0: 80, 1: 84, 2: 88})
    assert other[:6] == ("", "other", 7, pytest.approx(70), 0, 1)
    assert over_seeds([tvconv]) == "mean ± std of 3 seeds" and over_seeds([other]) == "1 seed"
    assert over_seeds([tvconv, other]) == "mean ± std of 1 to 3 seeds"
    for name, other in (("c", ("g", "tvconv", 5, [81])), ("d", ("", "other", 9, [70]))):
        with pytest.raises(UserError, match="and a folder before differ in .*; draw them separately"):
            read_sweeps([first, sweep_folder(tmp_path / name, other)])


def test_the_envelope_is_what_nothing_cheaper_reaches():
    points = [(5, 80), (6, 79), (5, 78), (7, 80), (8, 85), (9, 84.9), (20, 85.1)]
    outcomes = [Outcome("", str(i), macs, mean, 0, 1) for i, (macs, mean) in enumerate(points)]
    assert [(one.macs, one.mean) for one in sweep_figures.envelope(outcomes)] == [(5, 80), (8, 85), (20, 85.1)]


def test_names_are_kept_apart_and_within_the_axes():
    assert spread_apart([0.1, 0.5, 0.9], 0.2) == [0.1, 0.5, 0.9]
    np.testing.assert_allclose(spread_apart([0.5, 0.5, 0.5], 0.1), [0.5, 0.6, 0.7])
    np.testing.assert_allclose(spread_apart([0.9, 1.0, 1.0], 0.1), [0.8, 0.9, 1.0])
    np.testing.assert_allclose(spread_apart([0.0, 1.0, 1.0], 0.5), [0.0, 0.5, 1.0])


def test_what_is_far_below_does_not_press_the_others_together():
    points = {"a": 90.0, "b": 89.5, "c": 90.5, "d": 88.0, "e": 49.0}
    outcomes = [Outcome("", name, 5, mean, 0.0, 1) for name, mean in points.items()]
    axes = Figure().subplots()
    sweep_figures._draw_named(axes, outcomes)
    low, high = axes.get_ylim()
    assert 85 < low < 88 and 90 < high < 92
    heights = {line.get_marker(): line.get_ydata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 1}
    assert low < heights["v"] < 88  # a triangle on the lower edge
    assert [text.get_text() for text in axes.texts][0] == "e 49.0"


def test_figure_4_has_a_line_an_operator_and_widths_once():
    widths = {
        ("tvconv", 0.1): (5, 82),
        ("tvconv", 0.5): (18, 90),
        ("depthwise", 0.5): (18, 87),
        ("depthwise", 0.1): (5, 80),
    }
    outcomes = [
        Outcome(f"MobileNetV2 x{width}", operator, macs, mean, 0.5, 3)
        for (operator, width), (macs, mean) in widths.items()
    ]
    axes = Figure().subplots()
    sweep_figures._draw_lines(axes, outcomes)
    lines = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
    assert lines == {"tvconv": [[5, 82], [18, 90]], "depthwise": [[5, 80], [18, 87]]}
    assert axes.get_lines()[0].get_xydata().tolist() == [[5, 82], [18, 90]]  # the envelope
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("x0.1", (5, 82.5)), ("x0.5", (18, 90.5))]


def test_figures_of_sweeps_are_written(tmp_path):
    table1 = [
        (f"{name} x{w}", o, 5, [80, 81]) for name in ("A", "B") for w in (0.1, 0.5) for o in ("tvconv", "depthwise")
    ]
    figure10 = [("none", "tvconv 0", 5, [80]), ("rotation", "tvconv 10", 5, [79]), ("shear", "tvconv 20", 5, [78])]
    drawn("figure4", sweep_folder(tmp_path / "t", *table1), f"--out={tmp_path}/out")
    drawn("figure6", tmp_path / "t", sweep_folder(tmp_path / "s", ("", "ddf", 7, [60])), f"--out={tmp_path}/out")
    files = drawn("figure10", sweep_folder(tmp_path / "f", *figure10), f"--out={tmp_path}/out")
    assert files == [f"{name}.{suffix}" for name in ("figure10", "figure4", "figure6") for suffix in ("pdf", "png")]


def test_curves_begin_with_strength_0_and_follow_the_strengths():
    rows = [
        ("none", "tvconv 0", 83),
        ("scale", "tvconv 0.2", 80),
        ("scale", "tvconv 0.1", 82),
        ("shear", "tvconv 10", 81),
    ]
    found = curve_figures.curves([Outcome(group, label, 5, mean, 0, 1) for group, label, mean in rows])
    numbers = {group: [(x, one.mean) for x, one in lines["tvconv"]] for group, lines in found.items()}
    assert numbers == {"scale": [(0, 83), (0.1, 82), (0.2, 80)], "shear": [(0, 83), (10, 81)]}


def test_the_projects_own_sweeps_fit_their_figures(tmp_path):
    def outcomes(name):
        settings = load_sweep(f"configs/sweeps/{name}.py").settings
        return [(setting.group, setting.label, 5, [80]) for setting in settings]

    found = curve_figures.curves(read_sweeps([sweep_folder(tmp_path / "figure10", *outcomes("figure10"))]))
    assert list(found) == ["rotation", "shear", "scale", "translation"] == list(curve_figures.UNITS)
    for lines in found.values():
        assert {operator: len(points) for operator, points in lines.items()} == {"tvconv": 4, "depthwise": 4}
    drawn("figure4", sweep_folder(tmp_path / "table1", *outcomes("table1")), f"--out={tmp_path}/out")


def test_pixels_by_hand():
    """Two pictures of 1x2 pixels: one pixel is 10 and 30, the other 7 twice."""
    pictures = np.zeros((2, 1, 2, 3), np.uint8)
    pictures[:, 0, 0], pictures[:, 0, 1] = [[10] * 3, [30] * 3], 7
    one = measure_pixels("set", [pictures[:1], pictures[1:]])
    assert one.mean[0, :, 0].tolist() == [20, 7] and one.std.tolist() == [[10, 0]] and one.images == 2


def test_variance_by_hand():
    """Two pictures of two positions, [0, 2] and [0, 6], one channel; a second one never varies.

    Total: mean 2, deviations -2 0 -2 4, variance 6. Within: 1 and 9, mean 5. Across: 0 and 4, mean 2.
    """
    features = np.full((2, 1, 2, 2), 3.0, np.float32)
    features[:, 0, :, 0] = [[0, 2], [0, 6]]
    one = measure_variance("set", [features[:1], features[1:]])
    assert one.intra == pytest.approx(5 / 6) and one.cross == pytest.approx(2 / 6) and one.images == 2
    np.testing.assert_allclose(one.by_position, [[0, 4 / 6]])


@pytest.mark.parametrize(("axis", "expected"), [(0, (1, 0)), ((1, 2), (0, 1))])
def test_equal_pictures_vary_within_and_flat_ones_across(axis, expected):
    features = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).mean(axis=axis, keepdims=True)
    one = measure_variance("set", [np.broadcast_to(features, (8, 4, 4, 3))])
    assert (one.intra, one.cross) == pytest.approx(expected, abs=1e-9)


def test_tiles_and_choices_of_maps_by_hand():
    maps = np.zeros((2, 2, 3), np.float32)
    maps[..., 0], maps[0, 0, 2] = 5, 1
    tile = map_figures.tile(maps)  # each pixel 48 times as large, frames of 2, gaps of 10
    assert tile.shape == (2 * 100 + 10, 2 * 100 + 10)
    assert tile[0, 0] == tile[1, 50] == 0 and tile[2, 2] == 0.5 and tile[0, 105] == 1  # frame, a flat map, gap
    assert tile[112, 2] == 1 and tile[160, 2] == 0 and tile[160, 160] == 1  # the third map, and where none is
    np.testing.assert_allclose(map_figures.variation(np.array([[3.0, 1.0]])), np.array([[1, -1]]) / np.sqrt(5))
    assert not map_figures.variation(np.ones((2, 2))).any()
    assert map_figures.most_varied(maps) == 2
    assert map_figures.chosen([0, 5, 10, 15, 20], 3) == [0, 10, 20] and map_figures.chosen([1, 2], 6) == [1, 2]
    layers = {f"block_{i}/conv": np.zeros((side, side, 1)) for i, side in enumerate((8, 4, 4, 2))}
    assert map_figures.chosen_layers(layers) == ["block_0/conv", "block_1/conv", "block_3/conv"]


def test_figures_of_a_workdir(finished, tmp_path, capsys, monkeypatch, error):
    workdir, _ = finished
    out = f"--out={tmp_path / 'out'}"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(np.full((20, 30, 3), 50 * index, np.uint8)).save(pictures / f"{index}.png")
    drawn("figure5", workdir, out)
    drawn("figure11", workdir, pictures, out, "--pictures=4", "--image-size=16")
    files = drawn("figure1e", workdir, pictures, out, "--images=4", "--layer=block_2")
    names = ("figure11", "figure1e", "figure5_bottom", "figure5_top")
    assert files == [f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")]
    assert capsys.readouterr().out.count("wrote ") == 8
    assert "holds no run (config.json)" in error("figure1e", pictures)
    assert "there are: train, " in error("figure1e", workdir, "--set=nobody")
    monkeypatch.setattr(set_figures, "open_sets", lambda target: open_sets(target)[:1])
    assert "--set=nobody is not a set of " in error("figure1e", workdir, "--set=nobody")


def test_the_spread_pictures_of_a_set_and_features_of_a_layer(finished):
    workdir, _ = finished
    train = open_sets(workdir)[0]
    (four,) = train.batches(4)
    every = np.concatenate(list(train.batches(10**6)))
    assert len(every) == len(train.source) == 64
    np.testing.assert_array_equal(four, every[[0, 21, 42, 63]])
    found = load(workdir)
    layers = layers_of(found.model, found.variables, 24)
    assert list(layers)[:3] == ["pixels", "stem", "block_1"] and layers["block_2"] == (12, 12)
    assert choose_layer(layers, None) == "block_3" and choose_layer(layers, "stem") == "stem"
    with pytest.raises(UserError, match="--layer=block_99 is unknown; there are: pixels, stem, block_1, "):
        choose_layer(layers, "block_99")
    pixels = features_of(found.model, found.variables, "pixels")(four)
    np.testing.assert_allclose(pixels, four / 127.5 - 1, atol=1e-6)
    last = features_of(found.model, found.variables, "last")(four)
    assert last.shape == (4, 2, 2, 512) and last.min() >= 0  # behind a ReLU6


def test_a_workdir_without_maps_gives_the_top_from_its_checkpoint_or_says_why_not(finished, tmp_path, capsys, error):
    workdir, _ = finished
    old = tmp_path / "old"
    shutil.copytree(workdir, old, ignore=shutil.ignore_patterns("maps"))
    assert drawn("figure5", old, f"--out={tmp_path / 'out'}") == ["figure5_top.pdf", "figure5_top.png"]
    assert "holds no maps/" in capsys.readouterr().out
    (old / "maps").mkdir()
    (old / "maps" / "step_00000001.npz").write_text("x")
    assert "step_00000001.npz is damaged" in error("figure5", old)
    np.savez(old / "maps" / "step_00000001.npz", other=np.zeros((2, 2)))
    assert "step_00000001.npz is damaged" in error("figure5", old)
    for step in (1, 2):
        np.savez(old / "maps" / f"step_0000000{step}.npz", **{f"layer_{step}": np.zeros((2, 2, 1))})
    assert "step_00000001.npz has other layers than the last step" in error("figure5", old)
    (tmp_path / "empty").mkdir()
    assert "holds no maps/ and no run (config.json)" in error("figure5", tmp_path / "empty")
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        assert "is neither a workdir (config.json) nor a folder with images" in error("figure11", folder)
        assert "is neither a workdir (config.json) nor a folder with images" in error("figure1e", folder)
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model": {"operator": "depthwise"}}))
    assert "is a folder with checkpoints: none" in error("figure5", tmp_path / "empty")
    assert "holds no run (config.json)" in error("figure11", tmp_path / "empty")


def test_an_operator_without_maps_is_named(tmp_path, monkeypatch, error):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"operator": "depthwise"}}))
    monkeypatch.setattr(
        map_figures, "read_checkpoint", lambda *_, **__: ("it", {"params/model/stem/kernel": np.ones(1)})
    )
    assert "no affinity maps, for the operator 'depthwise' has none; name" in error("figure5", tmp_path)


def test_foreign_folders_and_settings_are_one_line(tmp_path, error):
    assert "holds no sweep.json" in error("figure4", tmp_path)
    (tmp_path / "sweep.json").write_text('[{"setting": "tvconv"}]')
    assert "is not as a sweep writes it now; remove it, and python -m tvconv_jax.experiments.sweep" in error(
        "figure6", tmp_path
    )
    (tmp_path / "sweep.json").write_text("[]")
    assert "holds no run" in error("figure10", tmp_path)
    plain = sweep_folder(tmp_path / "plain", ("", "tvconv", 5, [80]))
    assert "names no width, as 'MobileNetV2 x0.1' does; figure6 draws it" in error("figure4", plain)
    assert "ends in no magnitude, as 'tvconv 10' does" in error("figure10", plain)
    zero = sweep_folder(tmp_path / "zero", ("none", "tvconv 0", 5, [80]))
    assert "holds no transformed training yet" in error("figure10", zero)
    assert "sweep.json is not a folder; name another folder" in error("figure6", plain, f"--out={plain}/sweep.json/out")
    assert "is not there; tvconv_jax.edge.benchmark" in error("figure7", tmp_path / "a.json")
