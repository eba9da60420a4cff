"""Training images that are rotated, sheared, scaled and translated: by hand, and in the stream of batches."""

import json

import numpy as np
import pytest

from tvconv_jax.data import pipeline
from tvconv_jax.data.augment import Magnitudes, check_magnitudes, draw, transform
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.utils.errors import UserError

ALL = Magnitudes(rotation=20.0, shear=10.0, scale=0.2, translation=0.1)
CUT = 1  # of 255: Pillow cuts off what it interpolates, so a hair below 64 is 63


@pytest.fixture(scope="module")
def source():
    return embedded.load("smoke", cache_dir())[0]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(1, 256, (8, 8, 3)).astype(np.uint8)


def batches(source, magnitudes, **changes):
    return pipeline.train_batches(source, batch_size=16, image_size=24, seed=0, magnitudes=magnitudes, **changes)


def test_a_rotation_a_translation_a_shear_and_a_scale_by_hand(image):
    none = np.zeros(5)
    np.testing.assert_array_equal(transform(image, ALL, none), image)
    quarter = transform(image, Magnitudes(rotation=90.0), np.array([1.0, 0, 0, 0, 0]))
    np.testing.assert_allclose(quarter.astype(int), np.rot90(image, -1), atol=CUT)  # clockwise as one looks at it
    moved = transform(image, Magnitudes(translation=0.25), np.array([0, 0, 0, 1.0, -0.5]))
    expected = np.zeros_like(image)
    expected[:7, 2:] = image[1:, :6]  # two to the right, one up; black where nothing was
    np.testing.assert_array_equal(moved, expected)
    leaning = transform(image, Magnitudes(shear=45.0), np.array([0, 1.0, 0, 0, 0]))
    # The row half a pixel below the center moves by half a pixel: the mean of two neighbors.
    np.testing.assert_allclose(leaning[4, 1:], (image[4, 1:].astype(float) + image[4, :-1]) / 2, atol=CUT)
    half = transform(image, Magnitudes(scale=0.5), np.array([0, 0, -1.0, 0, 0]))
    blocks = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(half[2:6, 2:6], blocks, atol=CUT)
    assert not half[:2].any() and not half[:, 6:].any()


def test_draws_reach_the_magnitude_either_way():
    drawn = draw(np.random.default_rng(0), 1000)
    assert drawn.shape == (1000, 5) and drawn.min() < -0.99 and drawn.max() > 0.99
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.15  # five standard errors: drawn apart


def test_without_magnitudes_nothing_is_drawn_and_with_them_order_and_flips_stay(source, monkeypatch):
    plain, close = batches(source, Magnitudes()), batches(source, Magnitudes(rotation=1e-9))
    for _ in range(6):
        expected, got = next(plain), next(close)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name].astype(int), value, atol=CUT if name == "image" else 0)
    monkeypatch.setattr(pipeline, "draw", None)
    next(batches(source, Magnitudes()))


def test_images_change_every_epoch_and_a_saved_position_goes_on_exactly(source):
    iterator, plain = batches(source, ALL, flip=False), batches(source, Magnitudes(), flip=False)
    images = []
    for _ in range(2):
        epoch = [next(iterator) for _ in range(4)]
        order = np.argsort(np.concatenate([batch["index"] for batch in epoch]))
        images.append(np.concatenate([batch["image"] for batch in epoch])[order])
    assert all((one != two).any() for one, two in zip(*images, strict=True))
    assert not (next(plain)["image"] == next(batches(source, ALL, flip=False))["image"]).all((1, 2, 3)).any()
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(3)]
    fresh = batches(source, ALL, flip=False)
    fresh.set_state(state)
    for batch in expected:
        np.testing.assert_array_equal(next(fresh)["image"], batch["image"])


def test_processes_share_the_transformed_batches_of_one(source):
    whole = next(batches(source, ALL))["image"]
    parts = [next(batches(source, ALL, rows=rows))["image"] for rows in np.array_split(np.arange(16), 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("name", "value"), [("rotation", 181.0), ("scale", 1.0), ("shear", -1.0)])
def test_a_magnitude_out_of_range_is_refused(name, value):
    with pytest.raises(UserError, match=f"data.augment.{name} {value:g} must be 0 to "):
        check_magnitudes({**Magnitudes()._asdict(), name: value})
