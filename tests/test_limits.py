"""Numbers of a config: every one has a rule, and what breaks it is one line before anything is opened."""

import argparse
import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tvconv_jax.losses import am_softmax
from tvconv_jax.metrics.roc import roc
from tvconv_jax.metrics.verification import cosine_scores, true_accept_rate
from tvconv_jax.models.registry import list_operators
from tvconv_jax.tasks import saved_config
from tvconv_jax.tasks.configs import (
    classification_config,
    face_config,
    frontal_config,
    odoc_config,
    segmentation_config,
)
from tvconv_jax.tasks.limits import RULES, check_values, numbers
from tvconv_jax.tasks.parts import model_of, plan_of
from tvconv_jax.training import loop
from tvconv_jax.training.logging import check_metric_names
from tvconv_jax.training.nonfinite import check_outputs, check_score
from tvconv_jax.utils.cli import seed_argument
from tvconv_jax.utils.errors import TrainingError, UserError


def face_of(text="smoke", model="mobilenetv2", width=0.1):
    return face_config(text, model=model, width=width)


def every_config():
    for arguments in (None, "smoke", "data=folder"):
        yield from (face_of(arguments), odoc_config(arguments), classification_config(arguments))
        yield segmentation_config(arguments)
    yield from (frontal_config(None), face_of("data=casia"))
    for model, width in (("mobilenetv2", 0.1), ("shufflenetv2", 0.5), ("mlp_mixer", 0.1)):
        yield from (face_of(f"operator={name}", model, width) for name in list_operators(model))


def with_value(config, key, value):
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    return config


def test_every_number_of_every_config_has_a_rule_that_its_own_value_keeps():
    for config in every_config():
        check_values(config)
        assert {key for key, _ in numbers(config)} <= set(RULES)


@pytest.mark.parametrize("make", [face_of, frontal_config, odoc_config, classification_config])
def test_no_number_of_a_config_may_be_what_no_number_is(make):
    for key in dict(numbers(make("smoke"))):
        for value in (math.nan, math.inf, -math.inf, 1e30, -2, "3"):
            if value == 1e30 and RULES[key].high == math.inf:
                continue
            one = (
                (value,)
                if key in ("optimizer.milestones", "model.stages")
                or key == "data.image_size"
                and make is classification_config
                else value
            )
            with pytest.raises(UserError, match=rf"^{key} .* must be .*; set --config\.{key}\.$"):
                check_values(with_value(make("smoke"), key, one))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 1 << 32, "seed 4294967296 must be at least 0, and at most 4294967295"),
        ("seed", 1.5, "seed 1.5 must be a whole number"),
        ("optimizer.milestones", (3.0, 2.0), r"optimizer.milestones \[3.0, 2.0\] must ascend"),
        ("optimizer.momentum", 1.0, "optimizer.momentum 1.0 must be at least 0, and less than 1"),
        ("model.depth", 1e6, "model.depth 1000000.0 must be greater than 0, and at most 16"),
        ("train.eval_every", 0.0, "train.eval_every 0.0 must be greater than 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(key, value, words):
    with pytest.raises(UserError, match=words):
        check_values(with_value(face_of(), key, value))


@pytest.mark.parametrize(
    ("config", "key", "value", "words"),
    [
        (face_of(), "model.implementation", "foo", "config.model: implementation='foo' is not one of"),
        (odoc_config("smoke"), "model.generator_padding", "foo", "config.model: generator_padding='foo' is not one of"),
        (face_of("smoke", "mlp_mixer"), "data.image_size", 50, "config.model: images are 50x50; patch_size=8 must div"),
        (odoc_config("smoke"), "model.use_bias", "no", "config.model: use_bias='no' must be True or False"),
    ],
)
def test_what_a_model_has_against_its_config_is_said_before_data_is_opened(config, key, value, words):
    with pytest.raises(UserError, match=words) as error:
        model_of(with_value(config, key, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [face_of, frontal_config, odoc_config, classification_config])
@pytest.mark.parametrize("key", ["optimizer.lr_scaling", "train.on_nonfinite", "train.precision"])
def test_words_that_all_tasks_have_are_checked_before_data_is_opened(make, key):
    with pytest.raises(UserError, match=f"^{key} 'foo' is unknown; there are: "):
        check_values(with_value(make("smoke"), key, "foo"))


def test_more_steps_than_a_state_can_count_are_refused():
    with pytest.raises(UserError, match="are 10,000,000,000 steps, and a run counts to 2,147,483,647"):
        plan_of(with_value(face_of(), "optimizer.epochs", 1e6), 10_000)


def test_a_number_of_groups_replaces_the_devices_and_a_checkpoint_knows_how_many_there_were():
    run = face_of()
    run.train.batch_norm = "per_replica"
    run = ConfigDict(json.loads(run.to_json()))  # as a workdir keeps it
    now = ConfigDict(run.to_dict())
    now.train.batch_norm = "8"
    assert saved_config.differences(run.to_dict(), now) == ""
    now.train.batch_norm = "global"
    assert "train.batch_norm" in saved_config.differences(run.to_dict(), now)
    task = loop.Task(None, Batches(), None, str, norm_groups=1)
    assert loop.resume("fresh", task, Saved())[0] == "saved"  # of a version that did not write it
    assert loop.resume("fresh", task, Saved(norm_groups=1))[0] == "saved"
    with pytest.raises(
        UserError, match="over 8 groups of images when .* over 1 with .*; set --config.train.batch_norm=8"
    ):
        loop.resume("fresh", task, Saved(norm_groups=8))


class Batches:
    def set_state(self, state):
        pass


class Saved:
    def __init__(self, **more):
        self._position = {"batches": None, "best": {"step": 0, "score": 0.0}, **more}

    def restore(self, state, **_):
        return "saved", self._position


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_outputs_that_are_not_finite_are_no_accuracy(value):
    outputs = np.ones((3, 4), np.float32)
    assert check_outputs("embeddings", outputs) is outputs
    outputs[1, 2] = value
    with pytest.raises(TrainingError, match="embeddings of 1 of 3 images are not finite"), np.errstate(over="ignore"):
        check_outputs("embeddings", outputs)
    with pytest.raises(TrainingError, match=r"the evaluation after step 7 gave score (nan|inf|-inf), which cannot"):
        check_score(7, {"lfw": 0.5, "score": value if value != 1e30 else -math.inf})


@pytest.mark.parametrize("text", ["-1", "1.5", "4294967296", "nan", "²", ""])
def test_a_seed_of_a_flag_has_the_range_of_a_configs(text):
    assert seed_argument("4294967295") == RULES["seed"].high
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 0 to 4294967295"):
        seed_argument(text)


def test_lengths_that_overflow_are_not_zeros():
    long, unit = np.full((2, 4), 1e30, np.float32), np.full((4, 3), 0.5, np.float32)
    loss = jax.jit(lambda x, w: am_softmax(x, w, np.array([0, 1])))
    assert np.isnan(loss(long, long.T)).all() and np.isfinite(loss(unit.T[:2], unit[:, :2])).all()
    with pytest.raises(ValueError, match="2 rows of 2 embeddings are not finite, or too long for float32"):
        cosine_scores(long, long)
    same = np.array([True, False])
    for measure in (roc, true_accept_rate):
        with pytest.raises(ValueError, match="1 scores of 2 are not finite"):
            measure(np.array([0.5, math.nan]), same)
    for fields, words in (
        ({"margin": math.nan}, "margin=nan must be finite"),
        ({"scale": math.inf}, "scale=inf must be"),
    ):
        with pytest.raises(ValueError, match=words):
            am_softmax(unit.T, unit, np.arange(3), **fields)


@pytest.mark.parametrize("name", ["score", "loss", "step", "accuracy"])
def test_a_verification_set_may_not_take_the_name_of_a_metric(name):
    with pytest.raises(UserError, match=f"verification set '{name}' has the name of another number"):
        check_metric_names("verification set", [name])
