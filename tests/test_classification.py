"""Classification: a run from folders to report and artifact, its resumption, settings that follow from the data."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from test_main import Watched, leaves, losses

from tvconv_jax.bench.plan import make_plan
from tvconv_jax.data.augment import Magnitudes, shade
from tvconv_jax.tasks import class_defaults, classification, trained
from tvconv_jax.tasks.class_defaults import Counted, settings_for, size_for
from tvconv_jax.tasks.classification import ClassificationJob, class_weights, make_loss
from tvconv_jax.tasks.command import config_of
from tvconv_jax.tasks.configs import classification_config
from tvconv_jax.tasks.configs.classification import FREE
from tvconv_jax.tasks.limits import check_values
from tvconv_jax.tasks.parts import learning_rate_note, schedule_of
from tvconv_jax.tasks.saved_config import check_workdir
from tvconv_jax.tasks.workdir import load_model
from tvconv_jax.training.optimizer import decoupled, warmup_cosine
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")
CONFIG = "--config=configs/classification.py:data=folder"
CLASSES = ("left", "middle", "right")


def board(random, label):
    """A bar whose place is the class."""
    image = random.integers(0, 60, (20, 30, 3), np.uint8)
    image[4:16, 3 + 9 * label : 9 + 9 * label] += 120
    return image


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """Three classes with 24 training and 8 test images each, of two devices a part."""
    root, random = tmp_path_factory.mktemp("boards"), np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                path = root / part / name / f"{part}{i % 2}_{i}.png"
                Image.fromarray(board(random, label)).save(path)
    return root


def config_for(root, text="", **changes):
    config = classification_config(f"data=folder,smoke,image_size=16x24,epochs=6{text}")
    changes = {"data.root": str(root), "data.group_pattern": r"([a-z]+\d)_", "data.validation_share": 0.0, **changes}
    config.update_from_flattened_dict(changes)
    return config


def train(config, workdir):
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with a step number
        classification.train(config, workdir)


@pytest.fixture(scope="module")
def workdir(boards, tmp_path_factory):
    """A run that nobody disturbed."""
    read, workdir = {"task"}, tmp_path_factory.mktemp("runs") / "boards"
    config = config_for(boards, **{"model.num_classes": 3})
    train(Watched(config, read), workdir)
    read |= {"data.split_seed", "data.test_share"}  # of a split that is drawn
    assert set(leaves(config)) <= read, set(leaves(config)) - read
    return workdir


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_a_run_learns_where_the_bar_is(workdir):
    results = results_of(workdir)
    assert results["classes"] == list(CLASSES) and results["temperature"] == 1.0
    assert results["mean_accuracy"] == results["test"]["accuracy"] > 0.6
    assert results["test"]["images"] == 24 and results["test"]["groups"] == 2
    assert json.loads((workdir / "config.json").read_text())["model"]["num_classes"] == 3
    assert "2 of 4 groups are to test on, none on both sides" in " ".join(results["notes"])
    metrics = (workdir / "metrics.jsonl").read_text()
    assert '"test_balanced_accuracy"' in metrics and '"score"' not in metrics  # nothing is selected on test images


def test_a_run_does_not_go_on_with_other_classes(boards, workdir, tmp_path):
    root, run = (shutil.copytree(there, tmp_path / there.name) for there in (boards, workdir))
    for part in ("train", "test"):
        (root / part / "right").rename(root / part / "down")
    config = config_for(root, **{"optimizer.epochs": 7.0})
    with pytest.raises(
        UserError, match=r"changed: 72 images, 3 classes \(left, middle, right\) .* \(down, left, middle\)"
    ):
        train(config, run)


def test_predictions_are_those_of_the_results(workdir):
    rows = list(csv.DictReader((workdir / "predictions.csv").open()))
    right = np.mean([row["class"] == row["predicted"] for row in rows])
    assert len(rows) == 24 and right == results_of(workdir)["test"]["accuracy"]
    for row in rows:
        assert row["name"].startswith(f"test/{row['class']}/")
        assert abs(sum(float(row[f"p {name}"]) for name in CLASSES) - 1) < 1e-4


def test_the_model_is_loaded_and_exported_with_its_classes(boards, workdir):
    model, variables = load_model(workdir)
    images = jnp.zeros((2, 16, 24, 3))
    assert model.apply(variables, images, train=False).shape == (2, 3)
    run = trained.load(workdir)
    assert run.output == "logits" and run.images.shape == (24, 16, 24, 3)
    wanted = {"task": "classification", "classes": list(CLASSES), "temperature": 1.0, "activation": "softmax"}
    assert run.metadata == wanted
    truth = np.repeat(np.arange(3), 8)

    def oracle(images):
        return jnp.asarray(np.eye(3, dtype=np.float32)[np.arange(len(images)) % 3])

    assert len(run.comparison.scores(oracle)) == 24 and run.verify(oracle).mean < 1
    assert np.isclose(run.comparison.weights.sum(), 1) and run.comparison.items == "images"
    assert len(truth) == len(run.images)
    batches = run.batches()
    assert next(batches).shape == (8, 16, 24, 3)
    batches.close()


def test_a_run_that_is_stopped_ends_as_one_that_is_not(boards, workdir, tmp_path, monkeypatch):
    train_step = ClassificationJob.train_step

    def stopping(self):
        step, taken = train_step(self), []

        def stop(*arguments):
            if len(taken) == 10:
                raise KeyboardInterrupt
            taken.append(None)
            return step(*arguments)

        return stop

    monkeypatch.setattr(ClassificationJob, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config_for(boards), tmp_path)
    monkeypatch.setattr(ClassificationJob, "train_step", train_step)
    assert not (tmp_path / "results.json").exists()
    check_workdir(config_for(boards), tmp_path)
    train(config_for(boards), tmp_path)
    assert losses(tmp_path) == losses(workdir)
    assert results_of(tmp_path)["test"] == results_of(workdir)["test"]
    assert (tmp_path / "predictions.csv").read_bytes() == (workdir / "predictions.csv").read_bytes()


def test_eval_mode_prints_the_same_scores(boards, workdir, capsys):
    with jax.numpy_dtype_promotion("standard"):
        classification.evaluate(config_for(boards), workdir)
    shown = capsys.readouterr().out
    assert f"{100 * results_of(workdir)['test']['accuracy']:.4g} %" in shown and "Recall by class" in shown


def test_validation_images_fit_the_temperature_and_may_select(boards):
    config = config_for(boards, **{"data.validation_share": 0.25, "data.group_pattern": "", "model.num_classes": 3})
    config.eval.checkpoint = "held_out"
    job = ClassificationJob(config)
    state = job.init_state()
    assert len(job.data.validation) == 18 and job.sizes == {"images": 54, "classes (left, middle, right)": 3}
    scores = job.scores(state)
    assert scores["score"] == scores["validation_balanced_accuracy"] and job.results_of_best
    found = job.measure(state)
    assert found.temperature == job.fitted_temperature(state) != 1.0
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    config.data.validation_share = 0.0
    with pytest.raises(UserError, match="eval.checkpoint held_out needs validation images; set --config.data.valid"):
        ClassificationJob(config)


def test_class_weights_and_loss_by_hand():
    labels = np.array([0, 0, 0, 1])
    assert class_weights("none", labels, 2).tolist() == [1, 1]
    weights = class_weights("balanced", labels, 2)
    np.testing.assert_allclose(weights, [4 / 6, 2])
    logits = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    loss = make_loss(lambda params, stats, images: (jnp.asarray(logits), stats), weights, label_smoothing=0.2)
    batch = {"image": jnp.zeros((2, 1, 1, 3), jnp.uint8), "label": jnp.array([0, 0])}
    value, (_, metrics) = loss({}, {}, batch, None)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = weights[0] * np.mean(-(0.9 * logs[:, 0] + 0.1 * logs[:, 1]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert metrics["accuracy"] == 0.5


def test_the_optimizer_is_adamw_with_the_rate_in_its_state():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda leaf: jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape) - 1, params)
    options = {"warmup_steps": 2, "total_steps": 6, "weight_decay": 0.1}
    ours = decoupled("adamw", 0.01, **options)
    with jax.numpy_dtype_promotion("standard"):
        mask = {"kernel": True, "bias": False}
        theirs = optax.adamw(lambda step: warmup_cosine(step, 0.01, 2, 6), weight_decay=0.1, mask=mask)
        one, other, states = params, params, [ours.init(params), theirs.init(params)]
        for _ in range(5):
            updates, states[0] = ours.update(grads, states[0], one)
            expected, states[1] = theirs.update(grads, states[1], other)
            one, other = optax.apply_updates(one, updates), optax.apply_updates(other, expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)
        texts = [
            jax.jit(of.update).lower(grads, of.init(params), params).as_text()
            for of in (ours, decoupled("adamw", 0.5, warmup_steps=1, total_steps=9, weight_decay=0.1))
        ]
    assert texts[0] == texts[1]
    rates = [float(warmup_cosine(step, 0.01, 2, 6)) for step in range(8)]
    np.testing.assert_allclose(
        rates, [0.005, 0.01, 0.01, *(0.005 * (1 + np.cos(np.pi * d / 4)) for d in (1, 2, 3)), 0, 0], atol=1e-9
    )


def test_the_learning_rate_is_noted_and_drawn_as_it_is_used():
    config = classification_config("epochs=10")
    note = "learning rate: 0.002; it grows for 0.5 epochs, then falls to 0 at epoch 10"
    assert learning_rate_note(config, 64) == note
    schedule = schedule_of(config, batch_size=64, steps_per_epoch=4)
    assert float(schedule(1)) == pytest.approx(2e-3) and float(schedule(0)) == pytest.approx(1e-3)
    assert float(schedule(40)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (64, 64)), ((300, 200), (64, 48)), ((28, 28), (32, 32)), ((32, 20), (32, 24)), ((40, 2000), (16, 64))],
)
def test_the_image_size_follows_from_the_median(size, expected):
    assert size_for(size) == expected


def test_settings_follow_from_the_data_and_fit_what_is_given():
    small, large = (settings_for(Counted(count, (64, 64), 2), "depthwise", {}) for count in (300, 20_000))
    assert set(small) == set(FREE)
    for found, count in ((small, 300), (large, 20_000)):
        share = found["data.validation_share"]
        steps = found["optimizer.epochs"] * (round(count * (1 - share)) // found["data.batch_size"])
        assert 1400 <= steps <= 4100
    assert (small["data.validation_share"], large["data.validation_share"]) == (0.0, 0.1)
    assert (
        small["optimizer.learning_rate"] > settings_for(Counted(300, None, 2), "tvconv", {})["optimizer.learning_rate"]
    )
    given = settings_for(Counted(300, (64, 64), 2), "tvconv", {"data.batch_size": 16, "optimizer.epochs": 10.0})
    assert given["optimizer.base_batch"] == 16 and given["optimizer.warmup_epochs"] == 0.5
    assert settings_for(Counted(20, None, 2), "tvconv", {})["data.batch_size"] <= 20


def test_the_embedded_boards_have_a_schedule_of_their_own():
    config = config_of(["--config=configs/classification.py"])
    counted = class_defaults.count_images(config.data)
    found = settings_for(counted, "tvconv", {})
    trained = round(counted.images * (1 - found["data.validation_share"]))
    assert found["optimizer.epochs"] * (trained // found["data.batch_size"]) == pytest.approx(600, rel=0.1)
    assert found["data.image_size"] == class_defaults.BOARD_SIZE


def test_the_image_size_follows_from_training_images_alone(tmp_path):
    root = tmp_path / "set"
    for part, count, size in (("train", 3, (24, 40)), ("test", 9, (96, 96))):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", size[::-1]).save(root / part / name / f"{i}.png")
    config = config_of([CONFIG, f"--config.data.root={root}"])
    assert class_defaults.count_images(config.data) == Counted(6, (24, 40), 2)


@pytest.mark.parametrize("flag", ["optimizer.learning_rate=0.002", "data.batch_size=64", "data.image_size=(64,64)"])
def test_a_given_value_that_is_the_default_stays(boards, tmp_path, flag):
    config = config_of(
        [CONFIG, f"--config.data.root={boards}", f"--config.{flag}", "--config.model.operator=depthwise"]
    )
    before, key = config.to_dict(), flag.partition("=")[0]
    chosen = class_defaults.prepare(config, tmp_path, lambda _: None)
    section, name = key.split(".")
    assert chosen[section][name] == before[section][name] == FREE[key] and key not in chosen.train.auto.split(",")


def test_choices_are_printed_kept_and_resumed(boards, tmp_path):
    def prepare(*flags, workdir=tmp_path):
        said, config = [], config_of([CONFIG, f"--config.data.root={boards}", *flags])
        check_values(config)
        return class_defaults.prepare(config, workdir, said.append), said

    config, (line,) = prepare("--config.optimizer.epochs=7.0")
    assert line.startswith("chosen for 72 training images with tvconv: data.image_size 24x32, data.batch_size 8, ")
    assert (
        config.model.num_classes == 3
        and config.optimizer.epochs == 7
        and "optimizer.epochs" not in config.train.auto.split(",")
    )
    (tmp_path / "config.json").write_text(config.to_json())
    check_workdir(config_of([CONFIG, f"--config.data.root={boards}", "--config.optimizer.epochs=7.0"]), tmp_path)
    again, said = prepare("--config.optimizer.epochs=7.0")
    assert not said and again.to_json() == json.dumps(json.loads(config.to_json()))
    assert prepare("--config.train.auto=", workdir=tmp_path / "new")[0].data.batch_size == FREE["data.batch_size"]
    with pytest.raises(UserError, match="model.num_classes is 4, and the data has 3 classes; leave it at 0"):
        prepare("--config.model.num_classes=4", workdir=tmp_path / "new")


def test_a_mixer_without_running_statistics_is_trained_too(boards):
    fields = {"model.patch_size": 8, "model.layers": 1, "model.num_classes": 3}
    job = ClassificationJob(config_for(boards, ",model=mlp_mixer", **fields))
    state = jax.eval_shape(job.init_state)
    batch = {"image": jax.ShapeDtypeStruct((8, 16, 24, 3), jnp.uint8), "label": jax.ShapeDtypeStruct((8,), jnp.int32)}
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with a step number
        after, _ = jax.eval_shape(job.train_step(), state, batch)
    assert after.batch_stats == {} and jax.tree.structure(after) == jax.tree.structure(state)


def test_a_step_is_planned_without_data():
    config = classification_config("data=folder,smoke,image_size=16x24,operator=depthwise")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes a float with a step number
        plan = make_plan(config, kind="cpu")
    assert plan.identities == 10 and set(plan.parameters) == {"model"} and plan.batch_size == 8
    assert plan.optimizer_bytes > 2 * plan.parameter_bytes and plan.counted_flops > 0


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (":image_size=big", "image_size=big must be 64, or height x width as 48x64"),
        (":model=vgg", "model=vgg is unknown; there are: mobilenetv2"),
        (":flip", "'flip' is unknown"),
        ("--config.data.image_size=(8,8,8)", "must be one number or two, height and width"),
        ("--config.loss.class_weights=some", "loss.class_weights 'some' is unknown; there are: none, balanced"),
        ("--config.loss.label_smoothing=1.0", "loss.label_smoothing 1.0 must be at least 0, and less than 1"),
        ("--config.optimizer.name=adam", "optimizer.name 'adam' is unknown; there are: adamw, sgdw"),
        ("--config.data.augment.contrast=2.0", "data.augment.contrast 2.0 must be at least 0, and at most 0.9"),
    ],
)
def test_wrong_settings_are_one_line(flag, words):
    flags = [f"--config=configs/classification.py{flag}"] if flag[0] == ":" else [CONFIG, flag]
    with pytest.raises(UserError, match=words):
        check_values(config_of(flags))


def test_brightness_and_contrast_by_hand():
    image = np.full((2, 2, 3), 100, np.uint8)
    image[0] = 50
    magnitudes = Magnitudes(brightness=0.2, contrast=0.4)
    brighter = shade(image, magnitudes, np.array([1.0, 0.0]))
    assert brighter[0, 0, 0] == 60 and brighter[1, 0, 0] == 120
    harder = shade(image, magnitudes, np.array([0.0, 1.0]))
    assert harder[0, 0, 0] == 40 and harder[1, 0, 0] == 110
    assert shade(np.full((1, 1, 3), 250, np.uint8), magnitudes, np.array([1.0, 0.0])).max() == 255
