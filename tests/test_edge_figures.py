"""The paper's Figures 7 and 8 from files of the device benchmark."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tvconv_jax.experiments import edge_figures, figures


def device_figures(file, *artifacts, precision="float32", side=96):
    """A file as the benchmark writes it, of (operator, width, accuracy, images per second, MB)."""
    about = {"rank": "exact", "precision": precision, "input": {"shape": [None, 3, side, side]}}
    metadata = {"name": "mobilenetv2", **about}
    entries = [
        {
            "file": "model.onnx",
            "runtime": "onnxruntime",
            "metadata": metadata | {"operator": operator, "width": width, "accuracy": accuracy and {"mean": accuracy}},
            "memory": {"peak_bytes": megabytes * 1e6, "batch": 8},
            "best": {"images_per_second": speed},
        }
        for operator, width, accuracy, speed, megabytes in artifacts
    ]
    machine = {"model": "Raspberry Pi 4", "processor": "Cortex-A72"}
    file.write_text(json.dumps({"machine": machine, "artifacts": entries}))
    return str(file)


def test_figures_7_and_8(tmp_path, capsys):
    first = device_figures(tmp_path / "a.json", ("depthwise", 1.0, 0.9, 20, 90), ("depthwise", 0.5, 0.8, 60, 60))
    second = device_figures(tmp_path / "b.json", ("tvconv", 0.5, 0.9, 50, 70))
    third = device_figures(tmp_path / "c.json", ("tvconv", 0.5, 0.94, 40, 72))  # another seed
    points = edge_figures.read_points([Path(first), Path(second), Path(third)])
    assert [tuple(point) for point in points] == [
        ("depthwise", 0.5, 80.0, 60, 60.0, 8),
        ("depthwise", 1.0, 90.0, 20, 90.0, 8),
        ("tvconv", 0.5, pytest.approx(92), 45, 71.0, 8),
    ]
    for name in ("figure7", "figure8"):
        figures.main([name, first, second, third, f"--out={tmp_path}/figures"])
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["figure7.pdf", "figure7.png", "figure8.pdf", "figure8.png"]
    printed = capsys.readouterr().out
    assert all(f"{tmp_path}/figures/{name}" in printed for name in written)


def test_another_precision_or_size_is_no_seed(tmp_path):
    one = ("tvconv", 0.5, 0.9, 50, 70)
    files = [
        device_figures(tmp_path / "a.json", one),
        device_figures(tmp_path / "b.json", one, precision="int8"),
        device_figures(tmp_path / "c.json", one, precision="int8", side=112),
    ]
    points = edge_figures.read_points([Path(file) for file in files])
    assert [p.series for p in points] == [
        f"tvconv, {own}" for own in ("float32, 96x96", "int8, 112x112", "int8, 96x96")
    ]


def test_series_differ_by_marker_and_dashes_and_points_carry_widths():
    points = [edge_figures.Point("a", 0.5, 80.0, 60, 61.0, 8), edge_figures.Point("a", 1.0, 90.0, 20, 91.0, 8)]
    points += [edge_figures.Point("b", 0.5, 70.0, 50, 71.0, 8)]
    for key, expected in (("images_per_second", [60, 20]), ("peak_mb", [61.0, 91.0])):
        axes = Figure().subplots()
        edge_figures._draw_series(axes, points, key)
        first, second = axes.get_lines()
        assert (list(first.get_xdata()), list(first.get_ydata())) == (expected, [80.0, 90.0])
        assert first.get_marker() != second.get_marker() and first.get_linestyle() != second.get_linestyle()
        assert [text.get_text() for text in axes.texts] == ["x0.5", "x1.0", "x0.5"]


@pytest.mark.parametrize(
    ("text", "expected"), [(None, "is not there"), ("{}", "not a file of"), ("x", "not a file of")]
)
def test_figures_of_other_files_are_one_line(tmp_path, text, expected, refusal):
    file = tmp_path / "figures.json"
    if text is not None:
        file.write_text(text)
    assert expected in refusal(figures.main, "figure7", file)


def test_an_artifact_without_accuracy_has_no_place_in_the_figures(tmp_path, refusal):
    file = device_figures(tmp_path / "a.json", ("tvconv", 0.5, None, 50, 70))
    assert "carries no accuracy" in refusal(figures.main, "figure8", file)
