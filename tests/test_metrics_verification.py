"""Ten-fold verification: the golden bit for bit, naive loops, and cases small enough to see."""

import dataclasses
import json

import goldens
import numpy as np
import pytest

from tvconv_jax.metrics.verification import Verification, ten_fold, true_accept_rate


def pairs(seed: int, n: int = 120, d: int = 8) -> dict[str, np.ndarray]:
    """Unit embeddings, every other pair of one person; folds shuffled and of unequal size."""
    random = np.random.default_rng(seed)
    same = np.arange(n) % 2 == 0
    left, right = random.standard_normal((2, n, d)).astype(np.float32)
    right[same] += left[same]
    folds = np.concatenate([np.arange(10), random.integers(0, 10, n - 10)])
    units = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (left, right))
    return dict(zip(("left", "right", "same", "folds"), (*units, same, folds), strict=True))


def from_cosines(cosines: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in the plane with these cosines."""
    left = np.tile(np.float32([1, 0]), (len(cosines), 1))
    c = np.float64(cosines)
    return left, np.stack([c, np.sqrt(1 - c**2)], axis=1).astype(np.float32)


def naive_reference(left, right, same, folds) -> tuple[list[float], list[float]]:
    """The reference's protocol as plain loops over folds and thresholds."""

    def correct(scores, same, threshold):
        return sum(s < threshold if is_same else s > threshold for s, is_same in zip(scores, same, strict=True))

    accuracies, chosen = [], []
    for fold in range(10):
        others = folds != fold
        center = np.concatenate([left[others], right[others]]).mean(axis=0)
        left, right = left - center, right - center
        with np.errstate(invalid="ignore"):
            left = left / np.sqrt((left * left).sum(axis=1))[:, None]
            right = right / np.sqrt((right * right).sum(axis=1))[:, None]
        scores = ((left - right) ** 2).sum(axis=1).astype(np.float64)
        thresholds = np.arange(-10000, 10001) * 3.0 / 10000
        # Distances are at most 4 and at least 0: below that, every threshold does as well as the first one.
        counts = np.array([correct(scores[others], same[others], t) for t in thresholds[9990:]])
        counts = np.concatenate([np.full(9990, counts[0]), counts])
        chosen.append(thresholds[counts == counts.max()].mean())
        accuracies.append(correct(scores[~others], same[~others], chosen[-1]) / (~others).sum())
    return accuracies, chosen


def test_golden_bit_for_bit():
    arrays, _ = goldens.load("verification_a")
    result = ten_fold(arrays["left"], arrays["right"], arrays["same"], arrays["folds"])
    assert 100 * result.accuracy == arrays["accuracy_percent"]
    assert result.threshold == arrays["threshold"]


@pytest.mark.parametrize("seed", [0, 1])
def test_reference_equals_naive_loops(seed):
    data = pairs(seed, n=40)
    result = ten_fold(**data)
    accuracies, thresholds = naive_reference(**data)
    assert result.folds == tuple(accuracies)
    assert result.thresholds == tuple(thresholds)


def test_collapsed_embeddings_are_all_wrong_as_in_the_reference():
    # Every row equals the mean: 0 / 0 is neither near nor far.
    data = pairs(0, n=40) | {name: np.tile(np.float32([1, 0]), (40, 1)) for name in ("left", "right")}
    result = ten_fold(**data)
    assert result.accuracy == 0
    assert np.isfinite(result.threshold)


@pytest.mark.parametrize("protocol", ["reference", "standard"])
def test_length_of_embeddings_does_not_matter(protocol):
    data = pairs(2)
    # Powers of two scale without rounding.
    longer = data | {"left": 4 * data["left"]}
    assert ten_fold(**longer, protocol=protocol).accuracy == ten_fold(**data, protocol=protocol).accuracy


def test_input_is_left_as_it_was():
    data = pairs(3)
    copies = {name: array.copy() for name, array in data.items()}
    ten_fold(**data)
    for name, array in data.items():
        np.testing.assert_array_equal(array, copies[name])


def test_memory_layout_and_precision_do_not_matter():
    data = pairs(4)
    other = data | {"left": np.asfortranarray(data["left"]), "right": data["right"].astype(np.float64)}
    assert ten_fold(**other) == ten_fold(**data)


def test_standard_by_hand():
    # Each fold: one same pair, one different pair. In fold 0 they are the wrong way round.
    left, right = from_cosines([0.2, 0.8] + [0.75, 0.25] * 9)
    same, folds = np.arange(20) % 2 == 0, np.arange(20) // 2
    result = ten_fold(left, right, same, folds, protocol="standard")
    assert result.folds == (0.0, *[1.0] * 9)
    assert result.accuracy == 0.9
    np.testing.assert_allclose(result.std, 0.3)  # nine times 0.1 off and once 0.9: sqrt((9 * 0.01 + 0.81) / 10)
    # The midpoint of 0.25 and 0.75, also where 0.2 and 0.8 are among the nine folds. float32 embeddings hold a cosine
    # to 6e-8.
    np.testing.assert_allclose(result.thresholds, 0.5, atol=1e-6)


def test_standard_takes_the_middle_of_several_best_thresholds():
    # Different at 0.1, same at 0.4 and 0.9 in every fold: only the midpoint of 0.1 and 0.4 is all right.
    left, right = from_cosines([0.1, 0.4, 0.9] * 10)
    same, folds = np.tile([False, True, True], 10), np.arange(30) // 3
    result = ten_fold(left, right, same, folds, protocol="standard")
    assert result.accuracy == 1.0
    np.testing.assert_allclose(result.threshold, 0.25, atol=1e-6)
    left, right = from_cosines([0.1, 0.3, 0.4, 0.9] * 10)
    same, folds = np.tile([False, True, False, True], 10), np.arange(40) // 4
    result = ten_fold(left, right, same, folds, protocol="standard")
    # Different, same, different, same: with one error of four, 0.2 and 0.65 are best; of two the lower.
    np.testing.assert_allclose(result.threshold, 0.2, atol=1e-6)


def test_standard_does_not_depend_on_the_order_of_pairs():
    data = pairs(5)
    order = np.random.default_rng(0).permutation(len(data["same"]))
    shuffled = {name: array[order] for name, array in data.items()}
    assert ten_fold(**shuffled, protocol="standard").folds == ten_fold(**data, protocol="standard").folds


@pytest.mark.parametrize(("different", "expected"), [(999, 0.25), (1000, 0.5), (1999, 0.5), (2000, 0.75)])
def test_true_accept_rate_lets_in_one_in_a_thousand(different, expected):
    # Different pairs at 0.9, 0.8, 0.7, 0, 0, ...: with one let in, the bar is 0.8, with two 0.7.
    scores = np.concatenate([[0.95, 0.85, 0.75, 0.1], [0.9, 0.8, 0.7], np.zeros(different - 3)])
    assert true_accept_rate(scores, np.arange(len(scores)) < 4) == expected


def test_result_is_json():
    result = ten_fold(**pairs(6))
    assert isinstance(result, Verification)
    read = json.loads(json.dumps(dataclasses.asdict(result)))
    assert read["accuracy"] == pytest.approx(np.mean(read["folds"]), abs=1e-12)  # a sum in another order
    assert len(read["folds"]) == len(read["thresholds"]) == 10
    assert 0 <= read["tar"] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "lfw"}, "protocol='lfw' is unknown; there are: reference, standard"),
        (
            {"left": np.zeros((119, 8), np.float32)},
            r"shapes \(119, 8\) and \(120, 8\); both must be \[n, d\]",
        ),
        ({"left": np.zeros((120, 8), int)}, "left is int64; it must be floating"),
        ({"right": np.full((120, 8), np.nan, np.float32)}, "right has 120 rows of 120 that are not finite"),
        ({"same": np.ones(119, bool)}, r"same has shape \(119,\); it must be \[n\], here \(120,\)"),
        ({"same": np.ones(120, int)}, "same is int64; it must be bool"),
        ({"same": np.ones(120, bool)}, "same is True throughout"),
        ({"folds": np.arange(120) % 9}, "folds are .*; they must be 0 to 9"),
        ({"folds": np.arange(120) % 10 + 1}, "they must be 0 to 9"),
        ({"folds": np.arange(120) % 10 * 1.0}, "they must be 0 to 9"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        ten_fold(**(pairs(0) | change))
