"""Choice of a rank: the paired standard error by hand, the rule, the candidates, and what is printed of them."""

import numpy as np
import pytest

from tvconv_jax.export import rank_choice
from tvconv_jax.export.graph import Graph
from tvconv_jax.export.onnx import speed
from tvconv_jax.export.rank_choice import allowed_loss, candidates, check_comparison, choose, describe, record
from tvconv_jax.export.rank_search import steps_of
from tvconv_jax.metrics.paired import Comparison, paired_loss
from tvconv_jax.metrics.verification import correct_pairs, cosine_scores, pair_weights, ten_fold
from tvconv_jax.utils.errors import UserError


def test_the_paired_standard_error_by_hand():
    """Of ten pairs two get wrong and one gets right: differences 1, 1, -1, and seven zeros; mean 0.1."""
    exact = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    other = np.array([0, 0, 1, 1, 1, 1, 0, 1, 1, 1])
    mean, error = paired_loss(exact, other, np.full(10, 0.1))
    squares = 2 * 0.9**2 + 1.1**2 + 7 * 0.1**2
    assert mean == pytest.approx(0.1) and error == pytest.approx((squares / 9 / 10) ** 0.5)


def test_the_error_is_of_pairs_not_of_two_samples():
    """Pairs on which both models are wrong, or both right, say nothing of the difference."""
    exact = np.tile([1.0, 0.0], 500)
    other = exact.copy()
    other[:4] = 1 - other[:4]
    mean, error = paired_loss(exact, other, np.full(1000, 1e-3))
    assert mean == 0 and error == pytest.approx(np.sqrt(4) / 1000, rel=1e-3)  # two samples: 0.022
    assert paired_loss(exact, exact, np.full(1000, 1e-3), resolution=1e-3) == (0, 1e-3)


def test_items_of_unequal_weight_and_too_few():
    weights = np.array([0.5, 0.25, 0.25])
    mean, error = paired_loss([1, 1, 0], [0, 1, 0], weights)
    assert mean == 0.5 and error == pytest.approx((1.5 * (0.25**2 + 2 * 0.125**2)) ** 0.5)
    with pytest.raises(ValueError, match="must be .n., n at least 2"):
        paired_loss([1], [0], [1])


def test_correct_pairs_are_those_that_the_accuracy_counts():
    random = np.random.default_rng(0)
    same, left = np.arange(103) % 2 == 0, random.standard_normal((103, 4)).astype(np.float32)
    right = left * same[:, None] + random.standard_normal((103, 4)).astype(np.float32)
    folds = np.concatenate([np.arange(10), random.integers(0, 10, 93)])  # of unequal size
    found = ten_fold(left, right, same, folds, protocol="standard")
    correct = correct_pairs(cosine_scores(left, right), same, folds, found.thresholds)
    for fold in range(10):
        assert correct[folds == fold].mean() == found.folds[fold]
    assert pair_weights(folds) @ correct == pytest.approx(found.accuracy) and pair_weights(
        folds
    ).sum() == pytest.approx(1)


def graph_of(layers=3, taps=9):
    graph = Graph(4)
    for layer in range(layers):
        arrays = {"weights": np.random.RandomState(0).rand(4, 4, taps, 3), "bias": np.zeros(3)}
        graph.add("per_pixel", layer, arrays=arrays, strides=1, activation="relu6")
    return graph


def compare(scores, *, max_loss=0.2, precision="float32"):
    """Choose by given scores: ``{"exact": [...], "1:1": [...], ...}``; the graphs are the exact one."""
    exact, asked = graph_of(), []
    weights = np.full(len(scores["exact"]), 1 / len(scores["exact"]))
    comparison = Comparison(lambda _: None, weights, "pairs", "accuracy", float(weights[0]))

    def of_rank(rank):
        asked.append(str(rank))
        return exact

    def score(_):
        return np.asarray(scores[asked[-1] if asked else "exact"], float)

    options = {"max_loss": max_loss, "steps": 200, "precision": precision}
    return choose(exact, of_rank, score, comparison, **options), asked


EXACT = np.concatenate([np.ones(100), np.zeros(100), np.ones(3800)])


def lost(points, swapped=0):
    """Scores that lose points, of 4,000 pairs, with twice as many changes as ``swapped`` on top."""
    scores = EXACT.copy()
    scores[100 : 100 + swapped] = 1
    scores[1000 : 1000 + round(40 * points) + swapped] = 0
    return scores


@pytest.mark.parametrize(
    ("scores", "taken", "asked"),
    [
        # 0.25 points and 90 changed pairs: the error is 0.23 + ..., so the cheapest is taken though it loses over 0.2
        ({"1:1": lost(0.25, 60)}, "1:1", ["1:1"]),
        ({"1:1": lost(0.25), "2:1": lost(0.25), "1": lost(0.1)}, "1", ["1:1", "2:1", "1"]),  # ten pairs, all lost
        ({"1:1": lost(3, 20), "2:1": lost(-0.5)}, "2:1", ["1:1", "2:1"]),
        ({name: lost(5) for name in ("1:1", "2:1", "1", "2", "3", "4")}, "exact", ["1:1", "2:1", "1", "2", "3", "4"]),
    ],
)
def test_the_cheapest_within_the_limit_or_the_error_is_taken(scores, taken, asked):
    choice, found = compare({"exact": EXACT, **scores})
    assert choice.taken.name == taken and found == asked
    assert [str(rank or "exact") for rank in choice.left] == ["1:1", "2:1", "1", "2", "3", "4", "exact"][
        len(choice.tried) :
    ]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_taken_that_the_rule_forbids_and_nothing_cheaper_was_allowed(seed):
    random = np.random.default_rng(seed)
    count, max_loss = int(random.integers(100, 3000)), float(random.choice([0, 0.2, 2]))
    exact = (random.random(count) < 0.9).astype(float)
    scores = {"exact": exact}
    for name in ("1:1", "2:1", "1", "2", "3", "4"):
        flipped = random.random(count) < random.choice([0, 0.01, 0.05, 0.2])
        scores[name] = np.where(flipped, random.random(count) < random.choice([0.0, 0.9]), exact).astype(float)
    choice, _ = compare(scores, max_loss=max_loss)
    for one in choice.tried:
        differences = exact - scores[one.name]
        mean, error = 100 * differences.mean(), 100 * max(differences.std(ddof=1) / np.sqrt(count), 1 / count)
        forbidden = mean > max_loss and mean > min(error, 1) + 1e-9
        assert one.name == "exact" or forbidden == (one is not choice.taken)


def test_a_large_error_does_not_excuse_a_large_loss():
    assert allowed_loss(5.0, 0.2) == rank_choice.MAX_ERROR == 1.0
    assert allowed_loss(0.1, 0.2) == 0.2 and allowed_loss(0.31, 0.2) == 0.31 and allowed_loss(5.0, 3.0) == 3.0


def test_exact_kernels_that_lose_too_much_in_int8_are_an_error():
    scores = {name: lost(5) for name in ("1:1", "2:1", "1", "2", "3", "4")}
    with pytest.raises(UserError, match="in int8 even exact kernels lose 5.00 ± 0.34 points, of 97.50%; allow"):
        compare({"exact": EXACT, **scores}, precision="int8")


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (graph_of(17), ["1:10", "2:10", "1", "2", "3", "4"]),
        (graph_of(4), ["1:2", "2:2", "1", "2", "3", "4"]),
        (graph_of(1), ["1", "2", "3", "4"]),
        (graph_of(1, taps=1), ["1"]),
    ],
)
def test_candidates_begin_with_what_is_small_and_fast(graph, expected):
    assert [str(rank) for rank in candidates(graph)] == expected


def test_the_table_shows_the_figures_of_the_choice_and_the_metadata_holds_them():
    choice, _ = compare({"exact": EXACT, "1:1": lost(1.5, 3), "2:1": lost(0.25, 60)})
    speeds = {"exact": 1.0, "1:1": 6.14, "2:1": 4.6}
    lines, figures = describe(choice, speeds), record(choice, speeds)
    rows = [line.split() for line in lines[2:5]]
    assert [row[0] for row in rows] == ["exact", "1:1", "2:1"] and rows[0][1:2] == ["97.50%"]
    assert rows[1][1:5] == ["96.00%", "1.50", "±", "0.20"] and rows[1][6:] == ["6.1x"]
    assert rows[2][1:5] == ["97.25%", "0.25", "±", "0.29"] and rows[2][6:] == ["4.6x", "taken"]
    text = "\n".join(lines)
    assert "on 4,000 pairs, after 200 steps of fine-tuning" in text and "it loses -0.31 to 0.81 points (95 %" in text
    assert "not tried, since larger or slower: 1, 2, 3, 4, exact" in text and "too wide" not in text
    assert [row["rank"] for row in figures["tried"]] == ["exact", "1:1", "2:1"]
    last = figures["tried"][-1]
    assert last["points_lost"] == pytest.approx(0.25) and last["relative_speed"] == 4.6
    assert (figures["count"], figures["items"], figures["fine_tune_steps"]) == (4000, "pairs", 200)
    assert (
        describe(choice, {})[2].split() == ["exact", "97.50%", *rows[0][2:3]] and "speed" not in describe(choice, {})[1]
    )


def test_few_pairs_are_told_so():
    exact, other = np.ones(120), np.ones(120)
    exact[:3], other[3:6] = 0, 0
    choice, _ = compare({"exact": exact, "1:1": other})
    assert choice.taken.name == "1:1" and choice.taken.loss.error > 1
    assert "too wide to rely on: 120 pairs are few" in "\n".join(describe(choice, {}))


def of_count(count, items="pairs", resolution=1.0):
    return Comparison(lambda _: None, np.full(count, 1 / count), items, "accuracy", resolution / count)


@pytest.mark.parametrize(
    ("comparison", "max_loss", "words"),
    [
        (None, 0.2, "this run has none: give a rank yourself, --rank=1:10 --fine-tune=200."),
        (
            of_count(60),
            0.2,
            "one of the run's 60 pairs is 1.7 points, .* or allow --max-loss=1.7.",
        ),
        (of_count(1, "images", 0), 0.2, "needs two images or more to judge by: give a rank yourself, --rank=1:10"),
    ],
)
def test_a_run_that_cannot_judge_is_one_line(comparison, max_loss, words):
    with pytest.raises(UserError, match=words):
        check_comparison(graph_of(17), comparison, max_loss)


def test_as_many_pairs_as_can_tell_are_enough():
    exact = graph_of()
    check_comparison(exact, of_count(100), 0.2)
    check_comparison(exact, of_count(60), 1.7)
    check_comparison(exact, of_count(2, "images", 0), 0.2)


def test_auto_fine_tunes_unless_told_otherwise():
    assert [steps_of("auto", None), steps_of("auto", 0), steps_of("auto", 7)] == [200, 0, 7]
    assert [steps_of("1:10", None), steps_of("1:10", 200), steps_of("exact", None)] == [0, 200, 0]


def test_the_note_of_a_lowering_shows_what_it_was_chosen_by(monkeypatch):
    """``slices`` is faster over both batches, ``unfold`` at one of them."""
    found = {"unfold": {1: 125.0, 8: 201.0}, "slices": {1: 160.0, 8: 186.0}}
    monkeypatch.setattr(speed, "rates", lambda models, shape: found)
    best, note = speed.fastest({"unfold": b"", "slices": b""}, (3, 8, 8))
    assert best == "slices" and note == (
        "written as slices 11.63 ms an image, the least of batches 1 and 8 added (160 and 186 images/s here); "
        "unfold 12.98 ms (125 and 201)"
    )
