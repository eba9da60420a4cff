"""Scores of a classifier: scikit-learn's own, intervals by repeating images, missing classes, groups, temperature."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import _TemperatureScaling

from tvconv_jax.metrics import classification
from tvconv_jax.metrics.classification import calibration_bins, ece, evaluate, fit_temperature, with_temperature


def outputs(count, classes, seed=0, step=None):
    """Labels and probabilities float64; with a step they are rounded to it and have ties, zeros and ones."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    logits = random.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if step:
        probabilities[:, 1:] = np.floor(probabilities[:, 1:] / step) * step
        probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    return probabilities, labels


def names(count):
    return [f"class {c}" for c in range(count)]


def direct(probabilities, labels):
    """The main scores as scikit-learn has them, called in another way than evaluate calls it."""
    classes, predicted = range(probabilities.shape[1]), probabilities.argmax(axis=1)
    there = [c for c in classes if 0 < np.sum(labels == c) < len(labels)]
    ranked = there if len(classes) > 2 else [c for c in there if c == 1]
    areas = [metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in ranked]
    precisions = [metrics.average_precision_score(labels == c, probabilities[:, c]) for c in ranked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes without images
        found = {
            "accuracy": np.mean(predicted == labels),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
            "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
            "log_loss": metrics.log_loss(labels, probabilities, labels=classes),
            "auroc": np.mean(areas) if areas else np.nan,
        }
    return found | ({"average_precision": np.mean(precisions) if areas else np.nan} if len(classes) == 2 else {})


@pytest.mark.parametrize(("count", "classes", "step"), [(300, 2, None), (300, 2, 0.25), (200, 5, None), (200, 5, 0.25)])
def test_scores_are_scikit_learns(count, classes, step):
    probabilities, labels = outputs(count, classes, step=step)
    found = evaluate(probabilities, labels, names(classes), bootstrap=0)
    for name, value in direct(probabilities, labels).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    predicted = probabilities.argmax(axis=1)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    table = metrics.classification_report(labels, predicted, target_names=names(classes), output_dict=True)
    for name, row in found["per_class"].items():
        wanted = [table[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [row[key] for key in ("precision", "recall", "f1", "count")] == pytest.approx(wanted, abs=1e-12)
    if classes > 2:
        area = metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
        assert found["auroc"] == pytest.approx(area, abs=1e-12)
    assert ("average_precision" in found) == ("positive" in found) == (classes == 2)
    assert found["images"] == count and found["groups"] is None


@pytest.mark.parametrize("groups", [None, "of unequal sizes"])
@pytest.mark.parametrize(("classes", "step"), [(2, 0.25), (4, None), (4, 0.25)])
def test_intervals_are_those_of_repeated_images(classes, step, groups):
    probabilities, labels = outputs(30, classes, step=step)
    sizes = [9, 1, 4, 2, 8, 6]
    members = np.repeat([f"person {g}" for g in range(6)], sizes) if groups else np.arange(30)
    found = evaluate(probabilities, labels, names(classes), groups=members if groups else None, bootstrap=40, seed=3)
    random, units = np.random.default_rng(3), np.unique(members)
    values, recalls = [], []
    for _ in range(40):
        drawn = random.integers(len(units), size=len(units))
        chosen = np.concatenate([np.flatnonzero(members == units[unit]) for unit in drawn])
        values.append(
            direct(probabilities[chosen], labels[chosen]) | {"ece": ece(probabilities[chosen], labels[chosen])}
        )
        hits = probabilities[chosen].argmax(axis=1) == labels[chosen]
        recalls.append(np.mean(hits[labels[chosen] == 1]) if np.any(labels[chosen] == 1) else np.nan)
    for name, interval in found["intervals"].items():
        wanted = np.nanpercentile([value[name] for value in values], [2.5, 97.5])
        assert interval == pytest.approx(wanted, abs=1e-12), name
    wanted = np.nanpercentile(recalls, [2.5, 97.5])
    assert found["per_class"]["class 1"]["intervals"]["recall"] == pytest.approx(wanted, abs=1e-12)
    assert found["groups"] == (6 if groups else None)


def test_groups_are_drawn_whole():
    """Ten images of a person are one observation, so the interval is wider."""
    probabilities, labels = (np.repeat(values, 10, axis=0) for values in outputs(20, 2))
    widths = []
    for groups in (None, np.repeat(np.arange(20), 10).astype(str)):
        low, high = evaluate(probabilities, labels, ["a", "b"], groups=groups)["intervals"]["accuracy"]
        widths.append(high - low)
    assert widths[1] > 2.5 * widths[0]


def test_a_class_without_images_has_no_recall_and_counts_in_no_mean():
    probabilities, labels = outputs(200, 4)
    chosen = labels != 2
    predicted = probabilities[chosen].argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(probabilities[chosen], labels[chosen], names(4), bootstrap=20)
    row = found["per_class"]["class 2"]
    assert (row["recall"], row["intervals"]["recall"], row["count"]) == (None, None, 0)
    assert row["precision"] == row["f1"] == 0 and np.any(predicted == 2)  # it is predicted, always wrongly
    recalls = [np.mean(predicted[labels[chosen] == c] == c) for c in (0, 1, 3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    json.dumps(found, allow_nan=False)


def test_a_class_that_is_nowhere_is_left_out():
    found = evaluate(np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]]), np.array([0, 1]), names(3), bootstrap=10)
    assert found["macro_f1"] == found["balanced_accuracy"] == found["auroc"] == 1
    row = found["per_class"]["class 2"]
    assert [row[key] for key in ("precision", "recall", "f1", "count")] == [None, None, None, 0]
    assert set(row["intervals"].values()) == {None}


def test_one_image_has_scores_and_no_interval():
    found = evaluate(np.array([[0.25, 0.75]]), np.array([1]), ["a", "b"])
    assert found["accuracy"] == 1 and found["auroc"] is found["average_precision"] is None
    assert found["log_loss"] == pytest.approx(-np.log(0.75)) and found["ece"] == 0.25
    assert set(found["intervals"].values()) == {None}
    json.dumps(found, allow_nan=False)


def test_one_group_has_no_interval():
    probabilities, labels = outputs(20, 2)
    assert evaluate(probabilities, labels, ["a", "b"], groups=["one"] * 20)["intervals"]["accuracy"] is None


def test_probabilities_of_0_and_1_have_a_finite_loss():
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = evaluate(certain, np.array([0, 1, 1]), ["a", "b"], bootstrap=50)
    assert found["log_loss"] == pytest.approx(metrics.log_loss([0, 1, 1], certain)) and found["log_loss"] > 10
    assert np.all(np.isfinite(found["intervals"]["log_loss"])) and found["ece"] == pytest.approx(1 / 3)


def test_the_positive_class_is_the_last_or_the_one_named():
    probabilities, labels = outputs(100, 2)
    last, first = (evaluate(probabilities, labels, ["b", "a"], positive=p, bootstrap=0) for p in (None, "b"))
    assert (last["positive"], first["positive"]) == ("a", "b")
    for found, c in ((last, 1), (first, 0)):
        wanted = metrics.average_precision_score(labels == c, probabilities[:, c])
        assert found["average_precision"] == pytest.approx(wanted)
    assert last["average_precision"] != first["average_precision"] and last["auroc"] == pytest.approx(first["auroc"])


def test_float32_of_a_softmax_is_taken_without_a_warning():
    probabilities, labels = outputs(100, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(probabilities.astype(np.float32), labels, names(3), bootstrap=2)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.97, 0.03], [0.6, 0.4], [1.0, 0.0]])
    labels = np.array([0, 1, 0, 0])
    np.testing.assert_allclose(calibration_bins(probabilities, labels), [[0.6, 1, 1], [2.92 / 3, 2 / 3, 3]])
    assert ece(probabilities, labels) == pytest.approx((0.4 + 2.92 - 2) / 4)


def test_temperature_is_scikit_learns_where_there_are_many_images():
    probabilities, labels = outputs(20_000, 3)
    logits = 2.5 * np.log(probabilities)
    ours = fit_temperature(logits, labels)
    assert ours == pytest.approx(1 / _TemperatureScaling().fit(logits, labels).beta_, rel=2e-3)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * ours, rel=1e-4)
    assert fit_temperature(logits + 7, labels) == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize("count", [1, 20])
def test_temperature_stays_moderate_where_everything_is_correct(count):
    """Without the image whose class is unknown it would be the smallest one allowed."""
    labels = np.arange(count) % 3
    logits = 4 * np.eye(3)[labels]
    confidence = with_temperature(
        np.exp(logits) / np.exp(logits).sum(1, keepdims=True), fit_temperature(logits, labels)
    )
    assert confidence.max(axis=1) == pytest.approx((count + 1 / 3) / (count + 1), abs=1e-3)


def test_a_temperature_is_undone_by_its_inverse():
    probabilities, _ = outputs(20, 3)
    probabilities[0] = [0, 0, 1]
    np.testing.assert_allclose(with_temperature(with_temperature(probabilities, 2.5), 1 / 2.5), probabilities)


def test_many_classes_have_no_interval_of_auroc():
    probabilities, labels = outputs(300, classification.MAX_RANKED + 1)
    found = evaluate(probabilities, labels, names(101), bootstrap=5)
    assert found["auroc"] is not None and found["intervals"]["auroc"] is None and found["intervals"]["accuracy"]


GOOD = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("probabilities", "labels", "options", "words"),
    [
        (GOOD[0], np.array([0, 1]), {}, "must be [n, k] with an image and two classes"),
        (GOOD[:0], np.array([], int), {}, "(0, 2)"),
        (GOOD * np.nan, np.array([0, 1]), {}, "probabilities of 2 images are not finite"),
        (3 * GOOD, np.array([0, 1]), {}, "apply a softmax first"),
        (np.array([[1.5, -0.5]]), np.array([0]), {}, "must not be negative"),
        (GOOD, np.array([0, 2]), {}, "labels lie in 0 to 2; they must lie in 0 to 1"),
        (GOOD, np.array([0.0, 1.0]), {}, "labels are float64 (2,)"),
        (GOOD, np.array([0]), {}, "must be integers [2]"),
        (GOOD, np.array([0, 1]), {"classes": ["a"]}, "1 class names for 2 columns"),
        (GOOD, np.array([0, 1]), {"classes": ["a", "a"]}, "each needs its own name"),
        (GOOD, np.array([0, 1]), {"groups": ["a"]}, "1 groups for 2 images"),
        (GOOD, np.array([0, 1]), {"positive": "c"}, "positive='c' must be one of two classes"),
    ],
)
def test_mistakes_are_named(probabilities, labels, options, words):
    with pytest.raises(ValueError) as error:
        evaluate(probabilities, labels, options.pop("classes", ["a", "b"]), **options)
    assert words in str(error.value)
