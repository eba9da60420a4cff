"""The evidence table on tiny drawn sets: choice of rates, lines that resume, intervals, tables and plots."""

import json
import math
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image

from tvconv_jax.experiments.evidence import pretrained, problems, search, sets, tables, training
from tvconv_jax.experiments.evidence.__main__ import main
from tvconv_jax.experiments.evidence.record import Record, pack, pack_groups, unpack, unpack_groups
from tvconv_jax.experiments.set_figures import measure_variance
from tvconv_jax.metrics.complexity import Complexity
from tvconv_jax.metrics.paired import bootstrap_lead
from tvconv_jax.utils.errors import UserError

DOCS = Path(__file__).parent.parent / "docs"
SIZE = (8, 8)
COMMAND = "tvconv_jax.experiments.evidence.__main__"
OPTIONS = ["--sets=slices,cells", "--variants=depthwise,tvconv", "--steps=2", "--batch-size=4", "--seeds=2"]
CHOSEN = [("depthwise", 0.032), ("tvconv", 0.01)]
ACCURACY = {"depthwise": (0.5, 0.75), "tvconv": (0.875, 0.625)}  # at two learning rates, of a stand-in


@pytest.fixture(scope="module", autouse=True)
def small():
    """Tiny images and models, and two learning rates."""
    with pytest.MonkeyPatch.context() as patch:
        specs = {name: spec._replace(image_size=SIZE) for name, spec in sets.SETS.items()}
        for module in (sets.__name__, COMMAND):
            patch.setattr(f"{module}.SETS", specs)
        patch.setattr(problems, "DEPTH", 0.1)
        patch.setattr(training, "EVAL_BATCH", 8)
        patch.setattr(search, "COARSE", (-4,))
        patch.setattr(search, "LOWEST", -4)
        patch.setattr(search, "HIGHEST", -3)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, the right half of an image is brighter in one; in ``slices`` a name is that of a person."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for label in range(2):
            for i in range(count):
                image = random.integers(0, 100, (*SIZE, 3)).astype(np.uint8)
                image[:, 4:] += np.uint8(100 * label)
                for name in (f"slices/{split}/{label}/{split}_{i}.png", f"cells/{split}/{label}/{label}{i}.png"):
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
    return folder


class StandIn:
    """A trainer that trains nothing and is right as often as :data:`ACCURACY` says."""

    complexity = Complexity(1_000_000, 2_000, 3_000)
    runs: ClassVar[list] = []
    killed_at = 1000

    def __init__(self, found, variant, recipe):
        self.name, self.variant = found.name, variant

    def run(self, rate, seed, train, test):
        if len(self.runs) >= self.killed_at:
            raise KeyboardInterrupt
        self.runs.append((self.name, self.variant, rate, seed))
        right = ACCURACY[self.variant][rate > 0.02]
        items = np.arange(test.items) < round(right * test.items)
        return training.Trained(problems.Scores(items.astype(float), 1 - right), 1.0)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(f"{COMMAND}.Trainer", StandIn)
    monkeypatch.setattr(StandIn, "runs", [])
    return StandIn


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_killed_command_goes_on_and_each_variant_gets_its_own_rate(data, tmp_path, stand_in, monkeypatch, capsys):
    out = tmp_path / "evidence.jsonl"
    command = [f"--data={data}", f"--out={out}", *OPTIONS]
    monkeypatch.setattr(StandIn, "killed_at", 6)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 130
    before = out.read_bytes()
    with out.open("ab") as file:
        file.write(b'{"kind": "fin')  # as a process leaves it that is killed while it writes
    monkeypatch.setattr(StandIn, "killed_at", 1000)
    main(command)
    assert out.read_bytes().startswith(before)
    found = [(line["set"], line["variant"], line["rate"]) for line in lines(out) if line["kind"] == "final"]
    assert found == [(name, *one) for name in ("slices", "cells") for one in CHOSEN for _ in range(2)]
    assert len(stand_in.runs) == 4 * (2 + 2 + 2)  # two rates, two more seeds of the better one, two final seeds
    assert "+12.5 [" in capsys.readouterr().out
    runs = len(stand_in.runs)
    main(command)
    assert len(stand_in.runs) == runs  # all of them are there
    main([*command[:-1], "--seeds=3"])
    assert len(stand_in.runs) == runs + 4  # the third seed of each


def test_other_settings_do_not_mix(data, tmp_path, stand_in, capsys):
    out = tmp_path / "evidence.jsonl"
    command = [f"--data={data}", f"--out={out}", *OPTIONS]
    main(command)
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--steps=3"])
    assert stopped.value.code == 2
    assert "holds runs with steps 2, this command has 3" in capsys.readouterr().err


def test_a_damaged_line_and_a_missing_folder_are_one_line(data, tmp_path, capsys):
    out = tmp_path / "evidence.jsonl"
    for text, options, message in (
        ("[]\n", ["--show"], "line 1, is damaged"),
        ('{"kind": "other"}\n', ["--show"], "line 1, is damaged"),
        ("the user's own", [f"--data={data}"], "does not end in a line of this command"),
        ("", ["--show"], "holds no run"),
        ("", [f"--data={tmp_path}"], "holds none of the sets"),
        ("", [], "--data is missing"),
    ):
        out.write_text(text)
        with pytest.raises(SystemExit) as stopped:
            main([f"--out={out}", *options])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1
        assert out.read_text() == text


def test_tables_stand_in_the_page_and_plots_are_drawn(data, tmp_path, stand_in, capsys):
    out, page = tmp_path / "evidence.jsonl", tmp_path / "page.md"
    main([f"--data={data}", f"--out={out}", *OPTIONS])
    show = [f"--out={out}", "--show", f"--page={page}", f"--figures={tmp_path}"]
    with pytest.raises(SystemExit):
        main(show)
    assert "has no place for the tables" in capsys.readouterr().err
    page.write_text(f"before\n{tables.BEGIN}\nstale\n{tables.END}\nafter\n")
    main(show)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text
    assert "| `tvconv` | 87.5 ± 0.0 | 87.5 ± 0.0 |" in text
    assert "| slices | – | +50.0 | – | +25.0 |" in text  # at 0.01 alone tvconv looks far ahead
    assert "| slices | -25.0 at 0.01 | – |" in text  # the default of depthwise; that of tvconv was not tried
    assert {path.name for path in tmp_path.glob("*.png")} == {"evidence_rates.png", "evidence_leads.png"}


def test_the_page_shows_the_lines_beside_it():
    record = Record(DOCS / "appendix/data/evidence.jsonl")
    assert tables.replaced(DOCS / "evidence.md", tables.text_of(record)) == (DOCS / "evidence.md").read_text()


def test_a_real_training_repeats_and_learns_at_any_rate_with_one_program(data):
    found = sets.load("slices", data)
    trainer = training.Trainer(found, "depthwise", training.Recipe(steps=2, batch_size=4))
    with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
        first, again, other = (trainer.run(rate, 0, found.fit, found.held_out) for rate in (0.01, 0.01, 0.1))
    assert first.scores.loss == again.scores.loss != other.scores.loss
    assert trainer._step._cache_size() == 1
    assert first.scores.items.shape == (found.held_out.items,)


def test_no_person_is_on_both_sides_and_the_parts_are_in_one_order(data):
    found = sets.load("slices", data, limit=11)
    parts = [{path.name for path in part.paths} for part in (found.fit, found.held_out, found.train, found.test)]
    fit, held_out, train, test = parts
    assert not fit & held_out and fit < train and not test & (train | held_out)
    assert len(found.train.paths) == 12  # six persons with two images each; five would be less than 11
    assert len(found.fit.paths) == 10 and fit | held_out == {f"train_{i}.png" for i in range(10)}
    assert found.test.items == 8 and len(set(found.test.groups)) == 4


def test_the_share_of_the_mean_image_is_that_of_figure_1e(data):
    images = sets.load("cells", data).train.images
    flat = images.reshape(len(images), -1).astype(float)
    flat = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)  # light does not count
    wanted = 1 - measure_variance("", [flat.reshape(images.shape)]).cross
    assert sets.explained_by_mean(images) == pytest.approx(wanted, rel=1e-12)  # both sum in float64
    assert sets.explained_by_mean(np.tile(images[:1], (3, 1, 1, 1))) == pytest.approx(1)


def test_the_search_ends_with_a_worse_rate_on_both_sides():
    def run(quality, seeds=1):
        found = {}
        while (wanted := search.next_run(found, (-6, -4, -2), seeds)) is not None:
            exponent, seed = wanted
            found.setdefault(exponent, {})[seed] = search.Quality(quality(exponent, seed), 0.0, 0.01)
        return search.choose(found), sorted(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "LOWEST", -10)
        patch.setattr(search, "HIGHEST", 2)
        assert run(lambda e, _: -abs(e + 5)) == (-5, [-7, -6, -5, -4, -2])  # of equal ones the smaller comes first
        assert run(lambda e, _: -abs(e + 8)) == (-8, [-9, -8, -7, -6, -4, -2])
        assert run(lambda e, _: float(e)) == (2, [-6, -4, -3, -2, -1, 0, 1, 2])  # up to the last one
        lucky = {-4: [0.8, 0.8, 0.8], -3: [0.9, 0.1, 0.1]}  # the larger one trains with one seed of three
        assert run(lambda e, seed: lucky.get(e, [0.5] * 3)[seed]) == (-3, [-6, -5, -4, -3, -2])
        assert run(lambda e, seed: lucky.get(e, [0.5] * 3)[seed], seeds=3) == (-4, [-6, -5, -4, -3, -2])
        flat = {-6: 0.1, -4: 0.895, -3: 0.9, -2: 0.89}
        assert run(lambda e, _: flat.get(e, 0.5))[0] == -4  # within the error of the best, and smaller
    equal = {e: {0: search.Quality(score, loss, 0.0)} for e, score, loss in ((-4, 0.5, 2), (-3, 0.5, 1), (-2, 0.4, 0))}
    assert search.best(equal) == -3  # of equal scores the smaller loss decides


def test_scores_are_packed_without_loss():
    for items in ([0, 1, 1, 0, 1, 0, 0, 1, 1], [0.0, 0.2, 1.0]):
        text = pack(np.array(items, float))
        np.testing.assert_allclose(unpack(text, len(items)), items, atol=1e-12)  # 0.2 is 13,107 of 65,535
    assert unpack_groups(pack_groups(np.array([8, 5, 8])), 3).tolist() == [1, 0, 1]
    assert unpack_groups(pack_groups(np.array([8, 5, 9])), 3).tolist() == [0, 1, 2]  # each is alone


def test_the_interval_of_a_lead_by_hand():
    zeros, ones = np.zeros((1, 400)), np.ones((1, 400))
    assert bootstrap_lead(ones, zeros, np.arange(400)) == (1, 1, 1)
    scores = np.tile([0.0, 1.0], 200)[None]
    mean, low, high = bootstrap_lead(scores, zeros, np.arange(400))
    assert mean == 0.5
    # 1.96 standard errors of a share of 400; the bootstrap's quantiles of 2,000 draws are a few percent off
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.1)
    _, low, high = bootstrap_lead(scores, zeros, np.tile([0, 1], 200))
    assert (low, high) == (0, 1)  # two persons: one may be drawn twice
    seeds = np.concatenate([zeros, ones])
    mean, low, high = bootstrap_lead(seeds, zeros, np.arange(400))
    assert mean == 0.5 and low < 0 and high > 1  # seeds that differ by everything
    assert bootstrap_lead(seeds, seeds, np.arange(400)).mean == 0
    with pytest.raises(ValueError, match="must be"):
        bootstrap_lead(ones[0], zeros, np.arange(400))


def test_pairs_of_identities_are_scored_and_a_diverged_run_is_wrong():
    images = np.zeros((40, *SIZE, 3), np.uint8)
    labels = np.arange(40) // 4
    part = sets._with_pairs(sets.Part([], images, labels, labels))
    left, right, same, folds = part.pairs
    assert ((labels[left] == labels[right]) == same).all() and (left != right).all()
    assert np.bincount(folds).tolist() == [sets.PAIRS // 10] * 10
    perfect = np.eye(10, dtype=np.float32)[labels]
    assert problems.score_pairs(lambda _: perfect, part).items.mean() == 1
    assert problems.score_pairs(lambda _: perfect * np.nan, part).items.mean() == 0
    assert problems.score_classes(lambda _: perfect * np.nan, part).items.mean() == 0


def test_a_set_that_is_not_whole_is_one_line(tmp_path):
    for make, message in (
        ("iris/train/1_L/a.png", "no list of pairs"),
        ("iris/train/left/a.png", "does not name its person"),
        ("hippocampus/train/image/a_01.png", "mask/a_01.png: it cannot be opened"),
        ("cells/train/ok/notes.txt", "holds no images"),
        ("cells/train/ok/a.png", "there is no folder"),
    ):
        root = tmp_path / message.replace("/", "")
        (root / make).parent.mkdir(parents=True)
        Image.new("L", SIZE).save(root / make) if make.endswith("png") else (root / make).write_text("")
        with pytest.raises(UserError, match=message):
            sets.load(make.partition("/")[0], root)


def test_masks_are_scored_by_person_and_what_is_empty_adds_nothing():
    masks = np.zeros((4, *SIZE), np.int32)
    masks[0, :4], masks[1, :4], masks[2, :2] = 1, 1, 2
    part = sets.Part([], np.zeros((4, *SIZE, 3), np.uint8), masks, np.array([7, 7, 3, 3]))
    found = sets.ImageSet("hippocampus", sets.SETS["hippocampus"], 3, part, part, part, part)
    problem = problems.problem_of(found)
    logits = np.eye(3, dtype=np.float32)[np.where(np.arange(4)[:, None, None] == 1, 0, masks)]  # misses image 1
    items = problem.score(lambda _: logits, part).items
    # Person 3: class 2 found, class 1 neither there nor found. Person 7: half of class 1 found, of 64 pixels.
    assert items == pytest.approx([1, (2 * 32 + 1) / (32 + 64 + 1) / 2 + 0.5])  # Dice as the project defines it, with 1
    assert part.item_groups.tolist() == [0, 1]


def test_the_pre_trained_network_is_left_out_with_a_line_where_its_packages_are_missing(monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGES", ("torch", "tvconv_jax_no_such_package"))
    assert pretrained.lacking().startswith("tvconv_jax_no_such_package: not installed")


def test_a_logistic_regression_on_features(data, monkeypatch):
    class Mean:
        def features(self, paths):
            return np.stack([np.asarray(Image.open(path))[:, 4:].mean((0, 1)) for path in paths])

    found = sets.load("cells", data)
    logits = pretrained.regress(Mean(), 1.0, found.train, found.test, 3)
    assert (logits.argmax(axis=1) == found.test.labels).all() and logits.shape == (8, 3)
