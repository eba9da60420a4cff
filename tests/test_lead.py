"""The sweep of TVConv's lead on small faces, and its figures."""

import json

import numpy as np
import pytest

from tvconv_jax.experiments import curve_figures, figures, lead_figures
from tvconv_jax.experiments.sweep_file import load_sweep
from tvconv_jax.experiments.sweep_results import Outcome
from tvconv_jax.utils.errors import UserError

SWEEP = "configs/sweeps/lead.py"


def changes():
    return {row.name: dict(row.changes, argument=row.argument) for row in load_sweep(SWEEP).settings}


def test_operators_differ_in_their_rate_alone():
    of = changes()
    for name in (name for name in of if name.startswith(("images ", "identities ", "width "))):
        assert "data.split_seed" not in of[name]
        other = of[name.replace("tvconv", "depthwise")]
        different = {key for key, value in of[name].items() if other[key] != value}
        assert different <= {"optimizer.learning_rate", "argument"}
        assert of[name]["argument"].replace("tvconv", "depthwise") == other["argument"]


def test_the_chosen_rates_have_others_on_both_sides_and_were_tried_on_other_faces():
    of = changes()
    for operator in ("tvconv", "depthwise"):
        tried = {name: of[name] for name in of if name.startswith(f"adamw {operator} ")}
        assert all(row["data.split_seed"] == 1 for row in tried.values())
        rates = sorted(row["optimizer.learning_rate"] for row in tried.values())
        assert of[f"images 6000 {operator} 750"]["optimizer.learning_rate"] in rates[1:-1]


@pytest.mark.parametrize("steps", [750, 3000])
def test_every_image_is_new_where_the_label_says_so(steps):
    row = changes()[f"images new tvconv {steps}"]
    epochs = float(row["argument"].partition("epochs=")[2].partition(",")[0])
    assert epochs <= 1 and round(epochs * (row["data.photos"] * 500 // 64)) == steps


def test_leads_are_of_the_same_seeds():
    first, second = (Outcome("g", "a 1", 5, 0, 0, 3, values) for values in ({0: 80, 1: 82, 2: 90}, {2: 84, 0: 81}))
    assert lead_figures.seed_leads(first, second) == [-1, 6]
    assert lead_figures.interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # Student's t, 2 degrees
    assert lead_figures.interval([5.0]) == 0


def test_a_change_is_compared_with_the_depthwise_network_of_the_same_change():
    values = {"tvconv mean": 90, "depthwise mean": 88, "tvconv gdc": 91, "depthwise gdc": 90, "tvconv S5 to S7": 87}
    outcomes = [Outcome("pool", label, 5, 0, 0, 2, {0: x, 1: x + 1}, 12.0) for label, x in values.items()]
    outcomes.append(Outcome("start", "tvconv edge padding", 5, 0, 0, 1, {1: 92}))
    outcomes += [Outcome(g, o, 5, 0, 0, 1, {0: 9}) for g, o in (("make run", "tvconv"), ("adamw", "tvconv 0.1"))]
    pairs = lead_figures.compared(outcomes)
    leads = {change: lead_figures.seed_leads(*pair) for (_, change), pair in pairs.items()}
    assert leads == {"mean": [2, 2], "gdc": [1, 1], "S5 to S7": [-1, -1], "edge padding": [3]}
    rows = lead_figures.table(pairs).splitlines()
    assert rows[2] == "| pool | mean | 90.50 ± 0.50 | 88.50 ± 0.50 | +2.0, +2.0 | +2.0 to +2.0 | - | - | 12.00, 12.00 |"
    assert rows[-1] == "| start | edge padding | 92.00 | 88.50 ± 0.50 | +3.0 | - | +1.0 | - | -, 12.00 |"


@pytest.mark.parametrize("figure", ["lead", "rates", "steps"])
def test_the_figures_are_written(tmp_path, figure):
    random = np.random.default_rng(0)
    lines = [
        {"group": row.group, "label": row.label, "seed": seed, "complexity": {"macs": 5e6}}
        | {"mean_accuracy": random.uniform(0.7, 0.9)}
        for row in load_sweep(SWEEP).settings
        for seed in (0, 1)
    ]
    (tmp_path / "sweep.json").write_text(json.dumps(lines))
    figures.main([figure, str(tmp_path), f"--out={tmp_path / 'out'}"])
    table = ["lead.md"] if figure == "lead" else []
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [*table, f"{figure}.pdf", f"{figure}.png"]


@pytest.mark.parametrize("figure", ["lead", "rates", "steps"])
def test_another_sweep_is_refused(tmp_path, figure):
    line = {"group": "none", "label": "tvconv 0", "seed": 0, "complexity": {"macs": 5e6}, "mean_accuracy": 0.8}
    (tmp_path / "sweep.json").write_text(json.dumps([line]))
    with pytest.raises(UserError, match="no setting is of the groups"):
        (curve_figures.__dict__ | lead_figures.__dict__)[figure]([tmp_path], tmp_path / "out")
