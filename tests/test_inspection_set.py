"""The set of inspected boards: same bits, and classes that only the places of parts tell."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvconv_jax.data.synthetic import inspection
from tvconv_jax.data.synthetic.inspection import CLASSES, EMPTY, LETTERS, MASK_CLASSES, OPTIONAL, PLACES, RIGHT, draw
from tvconv_jax.data.synthetic.inspection_paint import PARTS
from tvconv_jax.data.synthetic.preview import draw_boards
from tvconv_jax.experiments import curve_figures, figures
from tvconv_jax.experiments.sweep_file import load_sweep
from tvconv_jax.experiments.sweep_results import Outcome
from tvconv_jax.utils.errors import UserError

SWEEP = "configs/sweeps/inspection.py"


def boards(label: str, count: int = 100) -> np.ndarray:
    return np.stack([inspection.assemble(np.random.default_rng(seed), label) for seed in range(count)])


def counts(assembled: np.ndarray) -> np.ndarray:
    """The number of each part on each board, whatever its place."""
    return np.stack([np.sum(assembled == part, axis=1) for part in range(len(LETTERS))], axis=1)


def test_every_kind_is_there_several_times():
    kinds = [PARTS[LETTERS[part]].kind for part in RIGHT]
    assert all(kinds.count(part.kind) >= 2 for part in PARTS.values())
    assert 0 < OPTIONAL.sum() < len(PLACES)


@pytest.mark.parametrize("label", CLASSES)
def test_counts_of_parts_do_not_depend_on_the_class(label):
    np.testing.assert_array_equal(counts(boards(label)), counts(boards("ok")))


def test_counts_of_parts_vary_and_tell_no_class():
    """The rule of the most frequent class of each count, learned on half of a set, is at chance on the other half."""
    random = np.random.default_rng(0)
    labels = random.integers(len(CLASSES), size=2000)
    found = counts(np.stack([inspection.assemble(random, CLASSES[label]) for label in labels]))
    keys, inverse = np.unique(found, axis=0, return_inverse=True)
    assert len(keys) > 100
    votes = np.zeros((len(keys), len(CLASSES)))
    np.add.at(votes, (inverse[::2].ravel(), labels[::2]), 1)
    accuracy = np.mean(votes.argmax(1)[inverse[1::2].ravel()] == labels[1::2])
    assert abs(accuracy - 1 / len(CLASSES)) < 0.05  # four standard deviations of 1,000 guesses


@pytest.mark.parametrize(("label", "places"), [("ok", 0), ("swapped", 2), ("missing", 1), ("turned", 1), ("wrong", 1)])
def test_a_class_has_its_defects(label, places):
    assembled = boards(label)
    defects = inspection.find_defects(assembled)
    np.testing.assert_array_equal(defects.sum(1), places)
    for board, defect in zip(assembled, defects, strict=True):
        there, right = ([PARTS[LETTERS[part]] for part in parts[defect & (board != EMPTY)]] for parts in (board, RIGHT))
        assert (label == "missing") == bool(np.any(board[defect] == EMPTY))
        for part, other in zip(there, right, strict=True):
            assert part.footprint == other.footprint
            assert (part.kind != other.kind) == (label == "swapped")
            assert label != "turned" or part.look == -other.look
            assert label != "wrong" or part.kind == "resistor"


def test_no_footprint_has_one_part_alone():
    """Pads do not tell which part belongs there; bolts may only be missing."""
    for footprint in ("short", "long"):
        assert len({part.kind for part in PARTS.values() if part.footprint == footprint}) > 1


def test_draw_gives_the_same_bits_and_a_prefix():
    first, again = draw(120, seed=5, size=16), draw(120, seed=5, size=16)
    short, other = draw(30, seed=5, size=16), draw(30, seed=6, size=16)
    for a, b, c, d in zip(first, again, short, other, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[:30], c)
        assert np.any(c != d)


@pytest.mark.parametrize("size", [64, (40, 72), (8, 96)])
def test_draw_shapes_and_classes(size):
    images, labels, masks = draw(100, size=size)
    shape = (size, size) if isinstance(size, int) else size
    assert images.shape == (100, *shape, 3) and images.dtype == np.uint8
    assert masks.shape == (100, *shape) and masks.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), [20] * len(CLASSES))
    assert set(np.unique(masks)) == set(range(len(MASK_CLASSES)))
    assert images.std() > 20


def test_a_part_has_the_circuit_of_its_place():
    circuits = {letter: {PLACES[i].mask for i in np.flatnonzero(RIGHT == LETTERS.index(letter))} for letter in "AECUN"}
    assert all(len(found) > 1 for found in circuits.values()), circuits


def test_shift_and_rotation_move_image_and_mask_together():
    still, moved = (draw(20, size=64, shift=shift, rotation=rotation)[2] for shift, rotation in ((0, 0), (0.1, 20)))
    bolt = MASK_CLASSES.index("bolt")
    corners = [np.s_[:, 4:10, 4:10], np.s_[:, -10:-4, -10:-4]]
    assert all(np.mean(still[corner] == bolt) > np.mean(moved[corner] == bolt) + 0.2 for corner in corners)
    images, _, masks = draw(20, size=64, shift=0.1, rotation=20)
    assert images[masks == bolt].mean() > images[masks == 0].mean() + 20


def test_draw_without_images():
    images, labels, masks = draw(0, size=16)
    assert images.shape == (0, 16, 16, 3) and labels.shape == (0,) and masks.shape == (0, 16, 16)


def test_the_image_of_the_docs_is_drawn_from_a_seed():
    file = Path(__file__).parent.parent / "docs" / "inspection.png"
    drawn, committed = np.asarray(draw_boards(), int), np.asarray(Image.open(file).convert("RGB"), int)
    assert np.abs(drawn - committed).mean() < 6  # 256 colors, and other processors round otherwise
    assert file.stat().st_size < 150_000


def outcomes(change=lambda label: label):
    return [Outcome(row.group, change(row.label), 5, 80, 0, 1) for row in load_sweep(SWEEP).settings]


def test_the_sweep_has_the_same_points_for_both_operators():
    found = curve_figures.grouped(outcomes(), curve_figures.BOARDS)
    assert list(found) == list(curve_figures.BOARDS)
    for operator in ("tvconv", "depthwise"):
        assert [x for x, _ in found["images"][operator]] == [300, 1000, 3000, 10000]
        assert [x for x, _ in found["moved"][operator]] == [0, 1, 4, 12]  # 1 is that of 3,000 images
    of = {row.name: row.changes for row in load_sweep(SWEEP).settings}
    assert of["images tvconv 3000"]["data.shift"] == 0.01 and of["images tvconv 3000"]["data.rotation"] == 1.0
    for name, values in of.items():
        # Rates are chosen on other boards than those that are scored, and nothing is left to the rule for own data.
        assert values["data.split_seed"] == int(name.startswith("rate")) and values["train.auto"] == ""
        other = of[name.replace("tvconv", "depthwise")] if name.startswith(("images", "moved")) else values
        assert {k: v for k, v in values.items() if k != "optimizer.learning_rate"}.items() <= other.items()
    for operator in ("tvconv", "depthwise"):  # the chosen rate has others on both sides
        tried = sorted(v["optimizer.learning_rate"] for name, v in of.items() if name.startswith(f"rate {operator} "))
        assert of[f"images {operator} 300"]["optimizer.learning_rate"] in tried[1:-1]


def test_the_figure_is_written_and_other_sweeps_are_refused(tmp_path):
    lines = [
        {"group": row.group, "label": row.label, "seed": seed, "complexity": {"macs": 5e6}, "mean_accuracy": 0.8}
        for row in load_sweep(SWEEP).settings
        for seed in (0, 1)
    ]
    (tmp_path / "sweep.json").write_text(json.dumps(lines))
    figures.main(["boards", str(tmp_path), f"--out={tmp_path / 'out'}"])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["boards.pdf", "boards.png"]
    with pytest.raises(UserError, match="images tvconv-300 ends in no number"):
        curve_figures.grouped(outcomes(lambda label: label.replace(" ", "-")), curve_figures.BOARDS)
    with pytest.raises(UserError, match="no setting is of the groups images, moved"):
        curve_figures.grouped([Outcome("none", "tvconv 0", 5, 80, 0, 1)], curve_figures.BOARDS)
