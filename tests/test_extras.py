"""Optional packages: what is missing is said in one line, and before any work."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from tvconv_jax.utils import extras
from tvconv_jax.utils.errors import UserError


def test_installed_modules_are_not_missing():
    assert extras.missing("json", "numpy") == []
    extras.require("export", "json")


def test_what_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"^onnx is not installed: pip install 'tvconv_jax\[export\]'\.$"):
        extras.require("export", "onnx", "numpy")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = r"^onnx and onnxruntime are not installed; --formats=onnx needs them: pip install 'tvconv_jax\[export\]'\.$"
    with pytest.raises(UserError, match=line):
        extras.require("export", "onnx", "onnxruntime", purpose="--formats=onnx")


def test_verify_without_pillow_is_one_line(monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "PIL", None)
    line = "error: PIL is not installed; python -m tvconv_jax.verify needs it: pip install 'tvconv_jax[align]'.\n"
    assert refusal(importlib.import_module("tvconv_jax.verify").main, "model.onnx", "a.jpg", "b.jpg") == line


def test_export_names_its_own_extra(monkeypatch):
    for name in extras.EXTRAS["export"]:  # which formats need them is not known yet
        monkeypatch.setitem(sys.modules, name, None)
    extras.require_for("tvconv_jax.export")
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(UserError, match=r"^optax is not installed; .* needs it: pip install 'tvconv_jax\[export\]'\.$"):
        extras.require_for("tvconv_jax.export", "tvconv-jax export")


def test_nothing_is_imported():
    assert not extras.missing("this") and "this" not in sys.modules


def test_every_extra_is_one_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(extras.EXTRAS) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("module", "arguments", "lacking"),
    [
        ("edge_table", ["headline", "--runtimes=native"], "onnx"),
        ("edge_table", ["models", "--runtimes=onnxruntime"], "torch"),
        ("export_table", ["nowhere"], "onnxruntime"),
        ("operator_table", ["nowhere"], "onnx"),
    ],
)
def test_tables_of_exports_need_their_packages_before_anything_is_measured(
    module, arguments, lacking, monkeypatch, refusal
):
    monkeypatch.setitem(sys.modules, lacking, None)
    error = refusal(importlib.import_module(f"tvconv_jax.bench.{module}").main, *arguments)
    assert error.startswith(f"error: {lacking} is not installed")
    assert error.endswith("pip install 'tvconv_jax[export]'.\n")
