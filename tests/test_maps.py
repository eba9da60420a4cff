"""Affinity maps that a run leaves while it trains."""

import jax
import jax.numpy as jnp
import pytest

from tvconv_jax import create_model
from tvconv_jax.training import maps
from tvconv_jax.training.maps import MapsLog, affinity_maps, map_files
from tvconv_jax.utils.errors import TrainingError
from tvconv_jax.utils.files import read_arrays


def params_of(operator):
    model = create_model("mobilenetv2", width=0.1, operator=operator, hidden_channels=8, hidden_layers=1)
    images = jax.ShapeDtypeStruct((1, 48, 48, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]


@pytest.mark.parametrize(
    ("operator", "layers"), [("tvconv", 17), ("tvconv_lowrank", 17), ("tvconv_linear", 17), ("depthwise", 0)]
)
def test_layers_come_in_their_order_and_operators_without_maps_have_none(operator, layers):
    params = params_of(operator)
    for tree in (params, {"model": params, "class_weights": jnp.zeros((2, 3))}):
        assert list(affinity_maps(tree)) == [f"block_{i}/conv" for i in range(1, layers + 1)]


def test_maps_of_steps_that_come_again_are_dropped_and_the_others_stay(tmp_path):
    log = MapsLog(tmp_path, 0)
    for step in (0, 5, 10):
        log.write(step, {"conv": {"affinity": jnp.full((2, 3, 1), step, jnp.float32)}})
    (tmp_path / "maps" / "notes.txt").write_text("mine")
    MapsLog(tmp_path, 5)  # a run that goes on from the checkpoint of step 5
    assert [int(read_arrays(file)["conv"][0, 0, 0]) for file in map_files(tmp_path).values()] == [0, 5]
    assert (tmp_path / "maps" / "notes.txt").exists()


def test_nothing_is_written_without_maps_or_by_another_process_and_a_full_disk_leaves_no_part(tmp_path, monkeypatch):
    params = {"conv": {"affinity": jnp.ones((2, 2, 1))}}
    MapsLog(tmp_path, 0).write(0, {"conv": {"kernel": jnp.ones(3)}})
    monkeypatch.setattr(maps, "is_first", lambda: False)
    MapsLog(tmp_path, 0).write(0, params)
    assert not (tmp_path / "maps").exists()
    monkeypatch.setattr(maps, "is_first", lambda: True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(TrainingError, match="no space left in .* for affinity maps"):
        MapsLog(tmp_path, 0).write(0, params)
    assert not list((tmp_path / "maps").iterdir())
