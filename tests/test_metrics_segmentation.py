"""Dice, HD95, ASD: medpy's figures to 1e-9, by hand, both definitions, empty masks; cleaning."""

import numpy as np
import pytest
from goldens import load

from tvconv_jax.metrics.segmentation import asd, clean, dice, hd95


def mask(*rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_figures_are_medpys():
    arrays, _ = load("surfaces_a")
    shape = arrays["shape"]
    pred, true = (np.unpackbits(arrays[k])[: np.prod(shape)].reshape(shape).astype(bool) for k in ("pred", "true"))
    for name, function in (("dice", dice), ("hd95", hd95), ("asd", asd)):
        ours = [function(p, t) for p, t in zip(pred, true, strict=True)]
        np.testing.assert_allclose(ours, arrays[name], rtol=0, atol=1e-9, err_msg=name)


def test_by_hand():
    pred, true = mask("##...", "....."), mask("#...#", ".....")
    assert dice(pred, true) == (2 * 1 + 1) / (2 + 2 + 1)
    # distances of pred's pixels to true's: 0, 1; the other way: 0, 3
    assert asd(pred, true) == 0.5 and asd(true, pred) == 1.5
    assert hd95(pred, true) == np.percentile([0, 1, 0, 3], 95)
    assert hd95(pred, true, definition="directed") == np.percentile([0, 3], 95)
    assert dice(pred, pred) == 1 and hd95(pred, pred) == asd(pred, pred) == 0


def test_an_outline_is_what_has_a_neighbor_outside_and_diagonals_do_not_count():
    ring, full = mask("####", "#..#", "#..#", "####"), np.ones((4, 4), bool)
    assert hd95(ring, full) == 0 and asd(full, ring) == 0  # the picture's border counts as outside


@pytest.mark.parametrize(("empty", "value"), [("100", 100.0), ("nan", np.nan), ("diagonal", 5.0)])
def test_empty_masks(empty, value):
    nothing, something = np.zeros((3, 4), bool), np.eye(3, 4, dtype=bool)
    for pair in ((nothing, something), (something, nothing), (nothing, nothing)):
        np.testing.assert_equal(hd95(*pair, empty=empty), value)
        np.testing.assert_equal(asd(*pair, empty=empty), value)
    assert dice(nothing, something) == 1 / 4 and dice(nothing, nothing) == 1


def test_clean_keeps_the_largest_part_joined_by_corners_and_fills_its_holes():
    given = mask("###..#", "#.#..#", "###...", "...#..")
    assert np.array_equal(clean(given), mask("###...", "###...", "###...", "...#.."))
    assert not clean(np.zeros((3, 3), bool)).any()
    assert np.array_equal(clean(mask("#.#")), mask("#.."))  # of equals the first


@pytest.mark.parametrize(
    ("pred", "true", "options", "words"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), bool), {}, "pred is float64 (2, 2); it must be a boolean mask"),
        (np.zeros((2, 2), bool), np.zeros(2, bool), {}, "true is bool (2,)"),
        (np.zeros((2, 2), bool), np.zeros((2, 3), bool), {}, "pred is (2, 2), but true is (2, 3)"),
        (np.eye(2, dtype=bool), np.eye(2, dtype=bool), {"definition": "max"}, "not one of pooled, directed"),
        (np.zeros((2, 2), bool), np.eye(2, dtype=bool), {"empty": "0"}, "not one of 100, nan, diagonal"),
        (np.eye(2, dtype=bool), np.eye(2, dtype=bool), {"empty": "0"}, "not one of 100, nan, diagonal"),
    ],
)
def test_a_misfit_names_value_and_rule(pred, true, options, words):
    with pytest.raises(ValueError) as error:
        hd95(pred, true, **options)
    assert words in str(error.value)
