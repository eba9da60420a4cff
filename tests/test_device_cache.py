"""``data.cache=device``: the pipeline's batches bit for bit, also after a kill, and what it refuses."""

import itertools
import json
from contextlib import closing
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.cached_runs import RecordedJob, assert_equal, train
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.pipeline import index_batches, train_batches
from tvconv_jax.data.source import LooseFiles
from tvconv_jax.data.subset import Subset
from tvconv_jax.data.synthetic import embedded, inspection
from tvconv_jax.tasks import classification, trained
from tvconv_jax.tasks.configs import (
    classification_config,
    face_config,
    frontal_config,
    odoc_config,
    segmentation_config,
    verification_config,
)
from tvconv_jax.tasks.configs.base import complete
from tvconv_jax.tasks.device_data import check_cache
from tvconv_jax.tasks.run import run
from tvconv_jax.tasks.saved_config import differences
from tvconv_jax.training import device_cache
from tvconv_jax.training.device_cache import DeviceBatches, check_room, load_images
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")


def faces(count=64):
    return Subset(embedded.load("smoke", cache_dir())[0], np.arange(count))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run by the pipeline that nobody disturbed."""
    return train(RecordedJob("none"), tmp_path_factory.mktemp("whole"))


def test_a_run_is_the_pipelines_bit_for_bit(whole, tmp_path):
    found = train(RecordedJob("device"), tmp_path)
    assert found[0].keys() == whole[0].keys() == set(range(1, 7))
    assert_equal(found, whole)
    epochs = [np.concatenate([found[0][step]["index"] for step in steps]) for steps in ((1, 2), (3, 4), (5, 6))]
    assert all(len(np.unique(epoch)) == 48 for epoch in epochs)  # 16 of 64 are left over, others every time
    assert len(np.unique(np.concatenate(epochs))) > 48


@pytest.mark.parametrize("caches", [("device", "device"), ("none", "device"), ("device", "none")])
def test_a_killed_run_goes_on_exactly_and_may_change_the_cache(whole, tmp_path, caches):
    first = train(RecordedJob(caches[0], kill_at=4), tmp_path)
    assert [line["step"] for line in first[1]][-1] <= 3
    second = train(RecordedJob(caches[1]), tmp_path)
    assert min(second[0]) == 3  # from the checkpoint of step 2
    assert_equal(second, whole)


@pytest.mark.parametrize(("size", "flip"), [((24, 20), True), (32, True), (24, False)])
def test_batches_are_the_pipelines_at_any_size(size, flip):
    mesh, options = make_mesh(), {"batch_size": 20, "seed": 7, "flip": flip}
    plain, drawn = train_batches(faces(61), image_size=size, **options), index_batches(61, **options)
    mirrored = 0
    with closing(plain), closing(DeviceBatches(drawn, load_images(faces(61), size, mesh), size, mesh)) as batches:
        for expected, found in itertools.islice(zip(plain, batches, strict=True), 7):
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)
        assert batches.get_state() == plain.get_state()
    for batch in itertools.islice(index_batches(61, **options), 7):
        mirrored += int(batch["mirrored"].sum())
    assert 40 < mirrored < 100 if flip else mirrored == 0


def test_parts_are_written_where_they_belong(monkeypatch):
    monkeypatch.setattr(device_cache, "PART", 5 * 3 * 24 * 24)
    images, whole = load_images(faces(13), 24, make_mesh()), next(train_batches_in_order(13))
    np.testing.assert_array_equal(images.images.reshape(13, 24, 24, 3), whole["image"])
    np.testing.assert_array_equal(images.labels, whole["label"])


def train_batches_in_order(count):
    batch = next(train_batches(faces(count), batch_size=count, image_size=24, seed=0, flip=False))
    order = np.argsort(batch["index"])
    yield {name: values[order] for name, values in batch.items()}


def test_workers_decode_the_set():
    images = load_images(faces(), 24, make_mesh(), workers=1, timeout=60.0, name="the faces")
    np.testing.assert_array_equal(images.images.reshape(-1, 24, 24, 3), next(train_batches_in_order(64))["image"])


class Plain(nn.Module):
    """Logits of the embedded boards' classes."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.BatchNorm(use_running_average=not train)(images[:, ::4, ::4].reshape(len(images), -1))
        return nn.Dense(len(inspection.CLASSES))(x)


def test_a_classification_is_the_pipelines_bit_for_bit(tmp_path, monkeypatch):
    lines = []
    for cache in ("none", "device"):
        config = classification_config("smoke")
        config.data.cache, config.data.flip = cache, True
        config.data.augment = dict.fromkeys(config.data.augment, 0.0)
        job = classification.ClassificationJob(config)
        monkeypatch.setattr(job, "scores", lambda _: {})
        job.model = Plain()
        with jax.numpy_dtype_promotion("standard"):
            run(job, tmp_path / cache)
        text = (tmp_path / cache / "metrics.jsonl").read_text()
        lines.append([line.partition(', "images_per_second')[0] for line in text.splitlines()])
    assert lines[0] == lines[1] and len(lines[0]) == 10


def test_an_export_reads_its_training_images_as_ever():
    with closing(trained.training_images(RecordedJob("device"))) as images:
        assert isinstance(next(images), np.ndarray)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.jpg cannot be decoded"):
        load_images(LooseFiles([tmp_path / "bad.jpg"]), 24, make_mesh())


def test_a_set_that_does_not_fit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 999 kB\nMemAvailable:       100 kB\n")
    monkeypatch.setattr(device_cache, "_MEMORY", memory)
    monkeypatch.setattr(device_cache, "decoded_parts", None)
    words = (
        r"^data.cache=device: the 64 training images of 24x24 take 110,848 bytes on each of 1 devices, and this "
        r"machine has 102,400 of 102,400 bytes free, of which a tenth is left for a step; set --config.data.cache=none"
    )
    with pytest.raises(UserError, match=words):
        train(RecordedJob("device"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    memory.unlink()  # unknown: not refused
    check_room(64, 24, make_mesh())


def device(limit, used):
    stats = {"bytes_limit": limit, "bytes_in_use": used}
    return SimpleNamespace(memory_stats=lambda: stats, device_kind="NVIDIA H200", id=1)


def test_the_devices_own_limit_counts_and_what_they_hold_already():
    share = 250_000 * (3 * 96 * 96 + 4)
    fits, full = device(10 * share, 8 * share), device(10 * share, 8 * share + 1)
    check_room(500_000, 96, SimpleNamespace(size=2, local_devices=[fits, fits]))
    words = r"take 6,913,000,000 bytes on each of 2 devices, and NVIDIA H200 1 has 13,825,999,999 of 69,130,000,000 b"
    with pytest.raises(UserError, match=words):
        check_room(500_000, 96, SimpleNamespace(size=2, local_devices=[fits, full]))


def with_cache(config, value="device"):
    config.data.cache = value
    return config


def test_what_cannot_be_the_same_on_the_devices_is_refused():
    words = (
        r"^data.cache=device only mirrors images, and cannot apply data.augment \(data.augment.brightness=0.1, "
        r"data.augment.contrast=0.1, .*\); set --config.data.augment.brightness=0 .*, or --config.data.cache=none\.$"
    )
    with pytest.raises(UserError, match=words):
        check_cache(with_cache(classification_config("data=folder,smoke")))
    with pytest.raises(UserError, match=r"data.augment.shear=2\); set --config.data.augment.shear=0, or"):
        RecordedJob("device", **{"data.augment.shear": 2.0})
    for config in (segmentation_config("smoke"), odoc_config("smoke")):
        with pytest.raises(UserError, match="holds no masks yet, so the task segmentation needs --config.data.cache=n"):
            check_cache(with_cache(config))
    with pytest.raises(UserError, match="data.cache 'host' is unknown; there are: none, device"):
        check_cache(with_cache(face_config("smoke", model="mobilenetv2", width=0.1), "host"))
    for config in (face_config("", model="mobilenetv2", width=0.1), verification_config(""), frontal_config("")):
        check_cache(config)
        check_cache(with_cache(config))


def test_old_runs_have_no_cache_and_a_run_may_change_it():
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    old = json.loads(config.to_json())
    del old["data"]["cache"]
    assert complete(old)["data"]["cache"] == "none"
    assert differences(old, with_cache(config)) == ""
