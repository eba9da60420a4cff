"""The report of a classifier: its figures, two and many classes, private images, markup, old files, a browser."""

import html
import json
import re

import numpy as np
import pytest
from browser import check_pages
from ml_collections import ConfigDict

from tvconv_jax.metrics.classification import evaluate, with_temperature
from tvconv_jax.report.classification import MAX_CLASSES, describe, worst
from tvconv_jax.report.run import write_report
from tvconv_jax.tasks import report_data
from tvconv_jax.tasks.report_data import ReportData

EVIL = "<script>alert('\"&')</script>"


class Parts:
    """Images with markup in their names; ``shown`` counts how often one was read."""

    def __init__(self, names):
        self.names, self.shown = names, 0

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        self.shown += 1
        return {"image": np.full((12, 16, 3), index % 256, np.uint8), "label": 0, "name": self.names[index]}

    def name(self, index):
        return self.names[index]


def classified(classes, count=60, groups=None):
    """Results and arrays of a run with the temperature 2."""
    random = np.random.default_rng(0)
    labels = random.integers(len(classes), size=count)
    logits = random.normal(size=(count, len(classes))) + 1.2 * np.eye(len(classes))[labels]
    probabilities = with_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 2)
    names = np.array([f"{EVIL}/{index}.png" for index in range(count)])
    test = evaluate(probabilities, labels, classes, groups=groups, bootstrap=20)
    results = {"test": test, "temperature": 2.0, "classes": list(classes), "groups": test["groups"]}
    return results, {"probabilities": probabilities, "labels": labels, "names": names}


def classification_run(workdir, classes, *, source="folder", report_images=False, **options):
    """The files of a classification run that ended, and the data that it read."""
    model = {"name": "mobilenetv2", "width": 0.1, "operator": "tvconv"}
    config = {"task": "classification", "seed": 0, "model": model, "optimizer": {"epochs": 3}}
    config |= {"data": {"source": source, "image_size": (12, 16)}, "eval": {"report_images": report_images}}
    found, arrays = classified(classes, **options)
    cost = {"macs": 5_816_320, "params": 1_336_344, "train_params": 9_904_920}
    found |= {"data": "data: parts (60 images)", "complexity": cost, "images_per_second": 3.0, "device": "cpu"}
    found |= {"command": "python -m tvconv_jax.main --config=a", "versions": {"jax": "0.10.2"}}
    workdir.mkdir(parents=True)
    (workdir / "results.json").write_text(json.dumps(found, allow_nan=False))
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    data = ReportData(np.array([[0, 0.1], [50, 0.01]]), {}, {}, {}, arrays)
    return ConfigDict(config), data, {"test": Parts(arrays["names"])}


def written(workdir, config, data, sets):
    write_report(workdir, config, data, sets)
    return (workdir / "report.html").read_text()


def words(page):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    base = tmp_path_factory.mktemp("classification")
    runs = {"two": (["good", EVIL], {}), "four": (["a", "b", EVIL, "d"], {"source": "embedded"})}
    runs["many"] = [f"class {i}" for i in range(MAX_CLASSES + 1)], {"count": 300}
    return {
        name: written(base / name, *classification_run(base / name, classes, **options))
        for name, (classes, options) in runs.items()
    }


def test_a_report_says_what_a_reader_asks(reports, tmp_path):
    results, arrays = classified(["good", EVIL])
    text, wrong = words(reports["two"]), int(np.sum(arrays["probabilities"].argmax(1) != arrays["labels"]))
    low, high = results["test"]["intervals"]["accuracy"]
    for expected in (
        "Classification: mobilenetv2 x0.1 with tvconv, seed 0",
        "was trained from seed 0 for 3 epochs on images of 12x16: parts (60 images).",
        f"Of 60 test images in 2 classes, {wrong} are classified wrongly",
        f"accuracy % {100 * results['test']['accuracy']:.2f} {100 * low:.2f} to {100 * high:.2f}",
        f"AUROC and average precision of {EVIL}",
        "ROC curve",
        "Precision and recall",
        "Reliability diagram",
        "divided by the temperature 2.000",
        f"{results['test']['ece'] * 100:.2f} % with it",
        "at 12x16",
    ):
        assert expected in text, expected
    assert "ROC curve" not in words(reports["four"])  # of two classes alone
    groups = np.repeat(["p", "q", "r"], 20)
    page = written(tmp_path / "run", *classification_run(tmp_path / "run", ["a", "b"], groups=groups))
    assert "Of 60 test images of 3 groups" in words(page) and "95 % intervals over groups" in words(page)


def test_a_confusion_matrix_shows_counts_and_the_share_of_the_row(reports):
    counts = np.array(classified(["a", "b", EVIL, "d"])[0]["test"]["confusion"])
    found = re.findall(r'<td style="background: [^"]*?(\d+)%, transparent\)">(\d+)</td>', reports["four"])
    assert np.array([int(count) for _, count in found]).reshape(4, 4).tolist() == counts.tolist()
    shares = 45 * counts / counts.sum(axis=1, keepdims=True)
    assert [int(share) for share, _ in found] == [round(share) for share in shares.ravel()]


def test_of_many_classes_the_most_frequent_confusions_are_listed(reports):
    counts = np.array(classified([f"class {i}" for i in range(MAX_CLASSES + 1)], count=300)[0]["test"]["confusion"])
    np.fill_diagonal(counts, 0)
    i, j = np.unravel_index(np.argmax(counts), counts.shape)
    assert f"true class predicted class images of class {i} class {j} {counts.max()} " in words(reports["many"])


def test_the_worst_images_are_wrong_with_the_highest_probability():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.99, 0.01]])
    assert worst(probabilities, np.array([1, 1, 0, 0])).tolist() == [0, 2, 1]
    assert worst(probabilities, np.array([1, 1, 0, 0]), 1).tolist() == [0]


def test_images_of_own_data_are_shown_on_request_alone(tmp_path):
    config, data, sets = classification_run(tmp_path / "run", ["a", "b"])
    page = written(tmp_path / "run", config, data, sets)
    first = worst(data.test["probabilities"], data.test["labels"])[0]
    assert sets["test"].shown == 0 and "image/jpeg" not in page and "eval.report_images=True" in page
    assert f"{html.escape(EVIL)}/{first}.png" in page
    config.eval.report_images = True
    wrong = np.sum(data.test["probabilities"].argmax(1) != data.test["labels"])
    assert written(tmp_path / "run", config, data, sets).count("data:image/jpeg") == min(24, wrong)
    for gone in (None, {"test": Parts(data.test["names"][1:])}, {"test": Parts(data.test["names"][::-1])}):
        page = written(tmp_path / "run", config, data, gone)
        assert "image/jpeg" not in page and "The data of this run was not available" in page


def test_own_drawings_are_shown(reports):
    assert "data:image/jpeg" in reports["four"] and "not available" not in reports["four"]


def test_nothing_from_outside_becomes_markup(reports):
    for page in reports.values():
        assert "<script" not in page and html.escape(EVIL) in page


def test_missing_parts_are_told():
    results, arrays = classified(["a", "b", "c"])
    probabilities, labels = np.eye(3)[[0, 1, 0, 1]], np.array([0, 1, 0, 1])
    results |= {"temperature": 1.0, "test": evaluate(probabilities, labels, ["a", "b", "c"], bootstrap=5)}
    arrays = {"probabilities": probabilities, "labels": labels, "names": np.array(list("wxyz"))}
    _, figures, sections = describe(results, arrays, None, images=True)
    text = words("".join(section.body for section in sections))
    assert "Without a test image, and so without a recall: c." in text and "c 0 - - - - - -" in text
    assert "No temperature was fitted" in text and "No test image is classified wrongly." in text
    assert figures[0].value == "100.00 %"


def test_two_classes_of_which_one_has_no_image_have_no_curves():
    results, arrays = classified(["a", "b"])
    chosen = arrays["labels"] == 0
    arrays = {name: values[chosen] for name, values in arrays.items()}
    results["test"] = evaluate(arrays["probabilities"], arrays["labels"], ["a", "b"], bootstrap=5)
    _, _, sections = describe(results, arrays, None, images=False)
    assert "ranking" not in [section.anchor for section in sections] and "AUROC % - -" in words(sections[0].body)


def test_arrays_come_back_and_files_of_older_runs_are_read(tmp_path):
    _, data, _ = classification_run(tmp_path / "run", ["a", "b"])
    report_data.save(tmp_path / "run", data)
    again = report_data.load(tmp_path / "run")
    assert set(again.test) == {"probabilities", "labels", "names"}
    assert all(np.array_equal(again.test[name], values) for name, values in data.test.items())
    np.savez(tmp_path / "report.npz", learning_rates=np.zeros((1, 2)), **{"cosines/a": np.ones(3)})
    older = report_data.load(tmp_path)
    assert older.test == {} and list(older.cosines) == ["a"]
    assert ReportData(np.zeros((1, 2)), {}, {}, {}).test == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_finds_nothing_wrong(reports, dark):
    check_pages(list(reports.values()), dark=dark)
