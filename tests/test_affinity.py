"""What affinity maps start from: statistics by hand, and how far from a depthwise convolution that is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import encoded

from tvconv_jax import TVConv, freeze
from tvconv_jax.models.registry import OPERATORS
from tvconv_jax.tasks.affinity import AffinityInit, deviation, set_affinity, statistics
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")


def png(value):
    return {"image": encoded(value), "label": 0, "name": "drawn"}


def grids(size, **fields):
    """A layer's kernels at step 0 on a grid, and their deviation."""
    layer = TVConv(hidden_channels=4, **fields)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, size, size, 2)))
    frozen = freeze(layer, variables)
    return np.asarray(frozen["frozen"]["weights"]), deviation(frozen)["deviation"]


def test_statistics_are_mean_and_deviation_at_every_pixel():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    mean, std = statistics([png(picture) for picture in pictures], 4)
    gray = pictures.mean(-1) / 255
    np.testing.assert_allclose(mean, gray.mean(0), rtol=1e-6)  # float32
    np.testing.assert_allclose(std, gray.std(0), rtol=1e-5)  # a difference of squares, in float64, then float32


def test_maps_of_the_data_are_brought_to_the_grid_and_to_mean_0_and_variance_1():
    mean, std = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    params = {
        "layer": {"affinity": jnp.ones((8, 8, 3)), "other": jnp.ones(2)},
        "small": {"affinity": jnp.ones((4, 4, 1))},
    }
    maps = np.stack([mean, std])
    found = set_affinity(params, "data", maps, seed=0)
    affinity = np.asarray(found["layer"]["affinity"])
    for channel, expected in enumerate((mean, std, mean)):
        np.testing.assert_allclose(affinity[..., channel], (expected - expected.mean()) / expected.std(), atol=1e-5)
    small = np.asarray(found["small"]["affinity"])
    assert small.shape == (4, 4, 1) and abs(small.mean()) < 1e-6 and abs(small.std() - 1) < 1e-5
    assert found["layer"]["other"] is params["layer"]["other"]
    noise = [np.asarray(set_affinity(params, "normal", None, seed)["layer"]["affinity"]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert (noise[0] != noise[2]).any()


def test_deviation_by_hand():
    kernels = np.ones((2, 2, 1, 1))
    kernels[0, 0] = 5  # mean 2: differences 3, -1, -1, -1
    layers = {"a": {"weights": jnp.array(kernels)}, "b": {"conv": {"weights": jnp.ones((3, 3, 9, 2))}}}
    found = deviation({"frozen": layers})
    expected = np.sqrt(12 / 28)
    np.testing.assert_allclose([found["layers"]["a"], found["layers"]["b/conv"]], [expected, 0], atol=1e-7)
    np.testing.assert_allclose(found["deviation"], expected / 2)
    assert deviation({"frozen": {}}) is None


def test_with_zeros_a_layer_starts_as_a_depthwise_one_only_away_from_the_border():
    weights, away = grids(12, hidden_layers=1)
    inside = weights[3:-3, 3:-3]  # hidden_layers + 2 pixels from the border
    np.testing.assert_allclose(inside, np.broadcast_to(inside[0, 0], inside.shape), atol=1e-5)  # sums of float32
    assert away > 0.1
    weights, away = grids(6)
    assert len(np.unique(weights.reshape(36, -1).round(3), axis=0)) == 36  # no two kernels of the last grid are equal
    assert grids(6, generator_padding="edge")[1] < 1e-6 < away


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.affinity_init": "mean"}, "model.affinity_init 'mean' is unknown; there are: ones, data, normal."),
        (
            {"model.affinity_init": "data", "finetune.checkpoint": "runs/one"},
            "model.affinity_init 'data' would be undone by finetune.checkpoint; leave one of them out.",
        ),
        (
            {"model.generator_padding": "wrap"},
            "config.model: generator_padding='wrap' is not one of ['zeros', 'edge']",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        FaceJob(config)
    assert words in str(error.value)


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "dyconv_pw"])  # that one is no spatial one
def test_only_operators_with_maps_take_a_start(operator):
    layer = OPERATORS[operator].module()
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 4, 4, 8)))["params"]
    config = face_config(f"smoke,operator={operator}", model="mobilenetv2", width=0.1)
    config.model.affinity_init = "normal"
    if "affinity" in shapes:
        AffinityInit(config, [])
    else:
        with pytest.raises(UserError, match="'normal': the operator has no affinity maps; leave it 'ones'"):
            AffinityInit(config, [])


def test_runs_of_older_versions_started_from_ones_with_zeros_and_as_the_pictures_are():
    config = face_config("smoke", model="mobilenetv2", width=0.1).to_dict()
    old = {**config, "model": dict(config["model"]), "data": dict(config["data"])}
    del old["model"]["affinity_init"], old["model"]["generator_padding"], old["data"]["augment"]
    assert complete(old) == config
