"""Fine-tuning: starting from a checkpoint of ours or of the reference, with other identities, and parts frozen."""

import collections
import os
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from tvconv_jax import create_model
from tvconv_jax.convert.reference import to_torch
from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.tasks.finetune import describe_frozen, freeze_matching, start_from
from tvconv_jax.training.checkpoint import Checkpoints
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.optimizer import sgd
from tvconv_jax.training.state import create_state
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")

MODEL = create_model("mobilenetv2", width=0.1, stages=(1,), affinity_channels=1, hidden_channels=4, hidden_layers=0)
OTHER = create_model("mobilenetv2", width=0.1, operator="depthwise")


def state_of(identities, seed, model=MODEL, image_size=24):
    """A state of random numbers; only shapes are asked of the model, for that compiles nothing."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, image_size, image_size, 3)), train=False)
    )
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)
    params = {"model": variables["params"], "class_weights": random.standard_normal((512, identities), np.float32)}
    optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
    columns = {"class_weights": identities}
    return create_state(params, variables["batch_stats"], optimizer, seed, make_mesh(), columns=columns)


def assert_model_equal(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state_of(8, 1), {})
        checkpoints.save(state_of(8, 2), {}, best=True)
    return folder


def test_with_other_identities_the_model_is_taken_and_class_weights_are_fresh(workdir):
    said, fresh, best = [], state_of(5, 3), state_of(8, 2)
    state = start_from(str(workdir), fresh, MODEL, said.append)
    assert_model_equal(state.params["model"], best.params["model"])
    assert_model_equal(state.batch_stats, best.batch_stats)
    np.testing.assert_array_equal(state.params["class_weights"], fresh.params["class_weights"])
    assert_model_equal(state.opt_state, fresh.opt_state)
    assert re.match(
        r"start: checkpoint of step 0 in .*best: \d+ arrays loaded, [\d,]+ numbers: model/block_1, ", said[0]
    )
    assert said[1:] == [
        "dropped: class_weights of 8 identities, here are 5",
        "fresh: class_weights of 5 identities",
    ]


def test_with_as_many_identities_class_weights_are_taken_too(workdir):
    said = []
    state = start_from(str(workdir), state_of(8, 3), MODEL, said.append)
    np.testing.assert_array_equal(state.params["class_weights"], state_of(8, 2).params["class_weights"])
    assert len(said) == 1 and "class_weights" in said[0]


def test_a_workdir_is_found_from_where_the_command_is_given(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    state = start_from(workdir.name, state_of(8, 3), MODEL, print)
    assert_model_equal(state.params["model"], state_of(8, 2).params["model"])


class Dangerous:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def lightning(path, state, *, prefix="model.", danger=None):
    """A file as the reference's trainer leaves it: more than weights, in classes of its own."""
    variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
    weights = {prefix + name: torch.tensor(value) for name, value in to_torch(variables, MODEL).items()}
    weights["head.weight"] = torch.tensor(np.asarray(state.params["class_weights"]))
    weights[prefix + "features.0.1.num_batches_tracked"] = torch.tensor(7)
    content = {"state_dict": collections.OrderedDict(weights), "epoch": 37, "hyper_parameters": danger}
    torch.save(content, path)


def test_a_checkpoint_of_the_reference_is_read_and_nothing_in_it_is_executed(tmp_path):
    theirs, said = state_of(8, 4), []
    lightning(tmp_path / "last.ckpt", theirs, danger=Dangerous(tmp_path / "executed"))
    state = start_from(str(tmp_path / "last.ckpt"), state_of(5, 3), MODEL, said.append)
    assert_model_equal(state.params["model"], theirs.params["model"])
    assert_model_equal(state.batch_stats, theirs.batch_stats)
    assert not (tmp_path / "executed").exists()
    assert "dropped: class_weights of 8 identities, here are 5" in said
    lightning(tmp_path / "plain.pth", theirs, prefix="module.")
    same = start_from(str(tmp_path / "plain.pth"), state_of(8, 3), MODEL, said.append)
    assert_model_equal(same.params["class_weights"], theirs.params["class_weights"])


def test_views_and_kinds_of_numbers_are_what_pytorch_says(tmp_path):
    base = torch.arange(24).reshape(4, 6)
    tensors = {"view": base[1:, ::2].T, "half": torch.tensor([1.5]).half(), "none": torch.zeros(0, 3)}
    torch.save(tensors, tmp_path / "t.pth")
    found = read_torch_checkpoint(tmp_path / "t.pth")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def test_parameters_and_bfloat16_are_arrays_whoever_reads_them(tmp_path):
    tensors = {"own": torch.nn.Parameter(torch.tensor([1.0, 2.0])), "brain": torch.tensor([1.5, -3.0]).bfloat16()}
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip", "old"):
        found = read_torch_checkpoint(tmp_path / f"{name}.pth")
        for key, expected in (("own", [1, 2]), ("brain", [1.5, -3])):
            assert found[key].dtype == np.float32 and found[key].tolist() == expected


@pytest.mark.parametrize(
    ("model", "image_size", "words"),
    [
        (OTHER, 24, r"is another model's. Missing there: .*conv/kernel.* Left over: .*affinity"),
        (MODEL, 32, r"arrays have other shapes, first params/model/.*: \(.*\) there, \(.*\) here"),
    ],
)
def test_another_model_is_one_line_that_names_both_sides(workdir, model, image_size, words):
    with pytest.raises(UserError, match=words) as error:
        start_from(str(workdir), state_of(8, 0, model, image_size), model, print)
    assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "photo.ckpt").write_bytes(b"PK\3\4 no zip")
    torch.save([1], tmp_path / "list.ckpt")
    torch.save({"a": torch.zeros(1).expand(1000)}, tmp_path / "grows.ckpt")
    with zipfile.ZipFile(tmp_path / "damaged.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", b"\0" * 1000)
    before, name, behind = (tmp_path / "damaged.ckpt").read_bytes().partition(b"data.pkl")
    (tmp_path / "damaged.ckpt").write_bytes(before + name + b"\xff" + behind[1:])
    state = state_of(5, 0)
    for name, words in {
        "": "is a folder with checkpoints: none",
        "none.ckpt": "does not exist",
        "photo.ckpt": "is not a file of PyTorch weights .File is not a zip file.",
        "list.ckpt": "holds no state_dict",
        "grows.ckpt": "a cannot be read .a tensor larger than its storage.",
        "damaged.ckpt": "is not a file of PyTorch weights .Error -3 while decompressing",
    }.items():
        with pytest.raises(UserError, match=words):
            start_from(str(tmp_path / name), state, MODEL, print)
    torch.save({"model.features.9.weight": torch.zeros(1)}, tmp_path / "alien.ckpt")
    with pytest.raises(UserError, match=r"Missing: .*features.0.0.weight.* Left over: features.9.weight"):
        start_from(str(tmp_path / "alien.ckpt"), state, MODEL, print)


def test_a_frozen_parameter_keeps_its_bits_and_has_no_momentum():
    params = {"stem": {"kernel": jnp.ones(3)}, "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    optimizer = freeze_matching(sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.5), "stem/*,*/bias")
    state, now = optimizer.init(params), params
    assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(2,), ()}  # the momentum of head/kernel, and the count
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, now)
        now = jax.tree.map(jnp.add, now, updates)
    changed = {
        "/".join(path) for path, leaf in flatten_dict(now).items() if not np.array_equal(leaf, np.ones(leaf.shape))
    }
    assert changed == {"head/kernel"}
    assert describe_frozen(params, "stem/*,*/bias") == "frozen: 2 of 3 arrays, 5 numbers: stem/kernel, head/bias"


def test_a_run_with_frozen_parts_is_resumed(tmp_path):
    optimizer = freeze_matching(sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.5), "stem")
    state = create_state({"stem": jnp.ones(3), "head": jnp.ones(2)}, {}, optimizer, 0, make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {"at": 1})
        restored, data = checkpoints.restore(state)
    assert data == {"at": 1} and jax.tree.structure(restored) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("patterns", "words"), [("stam/*", "'stam/\\*' matches none of stem"), ("*", "every parameter")]
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused(patterns, words):
    optimizer = freeze_matching(sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.5), patterns)
    with pytest.raises(UserError, match=words):
        optimizer.init({"stem": jnp.ones(3)})
