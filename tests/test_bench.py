"""The benchmark at tiny sizes: both sides compute the same, and the command prints and writes what it says."""

import json
import sys

import jax
import numpy as np
import pytest

import tvconv_jax
from tvconv_jax.bench import __main__ as bench
from tvconv_jax.bench import ours as bench_ours
from tvconv_jax.bench import torch_baseline as baseline
from tvconv_jax.bench.settings import operator_inputs

pytestmark = pytest.mark.usefixtures("barely_optimized")


@pytest.mark.parametrize("operator", ["tvconv", "depthwise"])
@pytest.mark.parametrize("strides", [1, 2])
def test_the_baseline_computes_the_same_operator(operator, strides):
    arrays = operator_inputs(operator, 3, 7, 5, strides)
    ours = bench_ours.operator_calls(operator, arrays, strides)
    theirs = baseline.operator_calls(operator, arrays, strides)
    y, grad_x, grad_weights = (a.numpy() for a in theirs["forward+backward"]())
    if operator == "tvconv":
        grad_weights = grad_weights.transpose(2, 3, 1, 0)
    else:
        grad_weights = grad_weights.reshape(5, 9).T
    expected = (y.transpose(0, 2, 3, 1), grad_x.transpose(0, 2, 3, 1), grad_weights)
    # Sums of at most 3 * 49 float32 products of size one, in another order.
    for a, b in zip(ours["forward+backward"](), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours["forward"](), expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(theirs["forward"]().numpy(), y)


def test_operator_command(capsys, tmp_path):
    file = tmp_path / "bench.json"
    bench.main(["operator", "--batch=1", "--image-size=16", "--runs=1", f"--json={file}"])
    rows = json.loads(file.read_text())["operator"]
    assert [row["operator"] for row in rows] == ["tvconv"] * 6 + ["depthwise"] * 6
    assert rows[1]["shape"] == [1, 16, 16, 96, 2]
    for row in rows:
        for part in ("forward", "forward+backward"):
            figures = row[part]
            assert figures["ratio"] == pytest.approx(figures["baseline_ms"] / figures["ours_ms"])
        arrays = operator_inputs(row["operator"], *arguments(row["shape"]))
        x, weights, y = (a.size for a in arrays)
        seconds = {part: row[part]["ours_ms"] / 1000 for part in bench.PASSES}
        bandwidths = {part: row[part]["gb_per_s"] * 1e9 for part in bench.PASSES}
        assert bandwidths["forward"] == pytest.approx(4 * (x + weights + y) / seconds["forward"])
        both = 4 * (3 * x + 3 * weights + 2 * y)  # the gradients read all three and write two
        assert bandwidths["forward+backward"] == pytest.approx(both / seconds["forward+backward"])
    assert json.loads(file.read_text())["copy_gb_per_s"] > 0.1
    printed = capsys.readouterr().out
    assert "geometric mean" in printed
    assert "PyTorch 2." in printed and "(eager, cpu" in printed


def arguments(shape):
    """Arguments of ``operator_inputs`` from a row's shape."""
    batch, grid, _, channels, strides = shape
    return batch, grid, channels, strides


def test_both_sides_compute_in_bfloat16():
    arrays = operator_inputs("tvconv", 3, 7, 5, 1)
    ours = bench_ours.operator_calls("tvconv", arrays, 1, precision="bfloat16")["forward"]()
    theirs = baseline.operator_calls("tvconv", arrays, 1, precision="bfloat16")["forward"]()
    assert ours.dtype == "bfloat16" and str(theirs.dtype) == "torch.bfloat16"
    theirs = theirs.float().numpy().transpose(0, 2, 3, 1)
    # Sums of nine products of size one; PyTorch's own are kept in 8 bits.
    np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=0.15)


def test_every_mode_takes_a_precision_and_the_compiled_baseline(monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(baseline, "MODE", "eager")  # and so again behind this test
    monkeypatch.setattr("torch.compile", lambda function: compiled.append(function.__name__) or function)
    monkeypatch.setattr(bench, "SHAPES", bench.SHAPES[:1])
    tiny = ["--batch=4", "--image-size=16", "--runs=1", "--precision=bfloat16", "--baseline=compiled"]
    bench.main(["operator", *tiny])
    tiny.append("--depth=0.1")
    monkeypatch.setattr(bench_ours, "OPERATORS", {"depthwise": bench_ours.OPERATORS["depthwise"]})
    bench.main(["train", *tiny])
    with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
        bench.main(["segmentation", *tiny, "--image-size=32"])
    assert compiled == ["tv_conv", "depthwise_conv", "in_precision", "in_precision"]
    printed = capsys.readouterr().out
    assert "(compiled, cpu" in printed
    assert "16x16, batch 4, bfloat16, SGD" in printed and "32x32, batch 4, bfloat16, Adam" in printed


def test_train_command_trains_both_sides_alike(capsys, tmp_path):
    file = tmp_path / "bench.json"
    bench.main(["train", "--batch=8", "--image-size=32", "--runs=1", "--depth=0.1", f"--json={file}"])
    results = json.loads(file.read_text())["train"]
    assert list(results) == ["tvconv", "depthwise"]
    for result in results.values():
        # From the same weights. Batch norm over eight similar images amplifies the rounding of sums in another
        # order, in a step's gradient more than in a loss.
        np.testing.assert_allclose(result["losses"][0], result["baseline_losses"][0], rtol=1e-4)
        np.testing.assert_allclose(result["losses"][1], result["baseline_losses"][1], rtol=1e-3)
        assert result["losses"][1] != result["losses"][0]
        assert result["compile_s"] > 0
        assert result["temporaries_bytes"] > 0
    assert "images/s" in capsys.readouterr().out


def test_segmentation_command_trains_both_sides_alike(capsys, tmp_path):
    file = tmp_path / "bench.json"
    with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
        bench.main(["segmentation", "--batch=2", "--image-size=32", "--runs=1", "--depth=0.1", f"--json={file}"])
    result = json.loads(file.read_text())["segmentation"]
    np.testing.assert_allclose(result["losses"][0], result["baseline_losses"][0], rtol=0.05)  # but for dropout's bits
    assert result["losses"][1] != result["losses"][0] and result["ratio"] > 0
    assert "DeepLabV3+ of depth 0.1, atrous convolutions, 32x32, batch 2" in capsys.readouterr().out


def test_without_torch_ours_are_timed_alone(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tvconv_jax.bench.torch_baseline")
    monkeypatch.delattr(tvconv_jax.bench, "torch_baseline")
    bench.main(["operator", "--batch=1", "--image-size=16", "--runs=1", "--twin=eager"])
    printed, notes = capsys.readouterr()
    assert "note: --twin is now --baseline" in notes
    assert "pip install 'tvconv_jax[torch]'" in printed
    assert "geometric mean" not in printed


@pytest.mark.parametrize("argument", ["--batch=0", "--runs=x", "--width=0.4", "--depth=0", "training"])
def test_bad_arguments_are_one_error(argument, refusal):
    assert "error:" in refusal(bench.main, argument)
