"""DeepLabV3+: the reference's logits and training steps, weights of torchvision, what each operator counts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from goldens import load, state_dict

from tvconv_jax import create_model, freeze
from tvconv_jax.convert.reference import CONV, by_name, conv_norm, from_torch, inverted_residual, to_torch
from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.convert.torchvision import backbone_from_torchvision
from tvconv_jax.metrics.complexity import count
from tvconv_jax.models.mobilenetv2 import blocks
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")


@pytest.mark.parametrize("operator", ["baseline", "tvconv"])
def test_logits_are_the_references_and_every_name_is_used_both_ways(operator):
    arrays, meta = load(f"deeplab_{operator}")
    state, model = state_dict(meta), create_model("deeplabv3plus", operator=operator)
    variables = from_torch(state, model)
    back = to_torch(variables, model)
    assert list(back) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    images = np.random.RandomState(2).uniform(-1, 1, (1, 3, 256, 256)).astype(np.float32).transpose(0, 2, 3, 1)
    apply = jax.jit(lambda variables: model.apply(variables, images, train=False))
    for given in (variables, freeze(model, variables)) if operator == "tvconv" else (variables,):
        logits = np.asarray(apply(given)).transpose(0, 3, 1, 2)
        assert logits.shape == (1, 2, 256, 256)
        scale = np.abs(arrays["eval_output"]).max()  # float32 through 60 layers
        np.testing.assert_allclose(logits[:, :, ::4, ::4], arrays["eval_output"], rtol=1e-4, atol=5e-5 * scale)
        np.testing.assert_allclose(logits.mean((2, 3)), arrays["eval_mean"], atol=5e-5)
        np.testing.assert_allclose(logits.std((2, 3)), arrays["eval_std"], atol=5e-5)


def without_dropout(call, args, kwargs, context):
    """Its random bits are not the reference's."""
    return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)


@pytest.mark.parametrize("operator", ["baseline", "depthwise"])
def test_three_training_steps_equal_the_references_in_float64(operator):
    """Where rounding plays no part, nothing may differ: padding before expansion, dilation, statistics, Adam."""
    exact, meta = load(f"deeplab_{operator}_float64")
    config = meta["config"]
    with jax.enable_x64(True):
        model = create_model("deeplabv3plus", operator=operator)
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), from_torch(state_dict(meta), model))
        shape = (config["batch"], 3, config["side"], config["side"])
        images = np.random.RandomState(2).uniform(-1, 1, shape).astype(np.float32).transpose(0, 2, 3, 1)
        true = np.random.RandomState(3).uniform(0, 1, (shape[0], 2, *shape[2:])).transpose(0, 2, 3, 1) < 0.3
        images, true = images.astype(np.float64), true.astype(np.float64)

        def loss(params, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            with nn.intercept_methods(without_dropout):
                logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, true)), (updates["batch_stats"], logits)

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        optimizer = optax.adam(config["lr"], b1=config["betas"][0], b2=config["betas"][1])

        @jax.jit
        def descend(grads, opt_state, params):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        params, batch_stats = variables["params"], variables["batch_stats"]
        opt_state, losses, first = optimizer.init(params), [], None
        for _ in range(config["steps"]):
            (value, (batch_stats, logits)), grads = step(params, batch_stats)
            if first is None:
                first = to_torch({"params": grads, "batch_stats": batch_stats}, model), np.asarray(logits)
            with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
                params, opt_state = descend(grads, opt_state, params)
            losses.append(float(value))
        buffers = to_torch({"params": params, "batch_stats": batch_stats}, model)
    np.testing.assert_allclose(first[1].transpose(0, 3, 1, 2)[:, :, ::4, ::4], exact["train_output"], atol=1e-8)
    np.testing.assert_allclose(losses[0], exact["losses"][0], rtol=1e-12)
    for name, norm in exact["grad_norms"].items():
        np.testing.assert_allclose(np.linalg.norm(first[0][name]), norm, rtol=1e-6, atol=1e-10, err_msg=name)
    # Adam divides by the gradient's own size, so the sign of a gradient that is zero but for rounding moves a weight.
    np.testing.assert_allclose(losses, exact["losses"], rtol=1e-4)
    for name, norm in exact["buffer_norms_after"].items():
        np.testing.assert_allclose(np.linalg.norm(buffers[name]), norm, rtol=1e-3, err_msg=name)


def test_output_stride_8_keeps_a_finer_grid_and_other_sizes_fit_all_but_tvconv():
    images = jnp.zeros((1, 96, 96, 3))
    for operator in ("baseline", "depthwise"):
        model = create_model("deeplabv3plus", operator=operator, output_stride=8, num_classes=3)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
        assert logits.shape == (1, 96, 96, 3)
    model = create_model("deeplabv3plus", hidden_channels=4, hidden_layers=0)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match="was built for the grid 4x4, but this input gives 6x6"):
        jax.eval_shape(functools.partial(model.apply, train=False), variables, images)


def test_costs_of_the_three_operators():
    """By hand: what differs between baseline and the others is three branches of the pyramid at 16x16."""
    costs = {
        name: count(create_model("deeplabv3plus", operator=name), (1, 256, 256, 3))
        for name in ("baseline", "depthwise", "tvconv")
    }
    assert costs["depthwise"].macs == costs["tvconv"].macs
    atrous = 9 * 320 * 256 + 3 * 256
    block = 320 * 1920 + 9 * 1920 + 1920 * 256 + 2 * 3 * 1920 + 2 * 256
    assert costs["baseline"].macs - costs["depthwise"].macs == 3 * 16 * 16 * (atrous - block)
    assert costs["tvconv"].params - costs["depthwise"].params == 3 * 9 * 1920 * (16 * 16 - 1)


def torchvision_state():
    """Names and shapes of torchvision's mobilenet_v2, numbers by their own."""
    layers = [*conv_norm("features.0", ("stem",), CONV)]
    for i, row in enumerate(blocks(), start=1):
        layers += inverted_residual(f"features.{i}.conv", (row.name,), row.expansion, CONV)
    model = create_model("deeplabv3plus", operator="baseline")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    state = {}
    for name, tensor in by_name(layers).items():
        leaf = functools.reduce(lambda tree, key: tree[key], tensor.flax[1:], shapes[tensor.flax[0]]["backbone"])
        state[name] = torch.from_numpy(tensor.to_torch(np.full(leaf.shape, len(state), np.float32)).copy())
    last = {"features.18.0.weight": torch.zeros(1280, 320, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    counter = {"features.0.1.num_batches_tracked": torch.tensor(7)}
    return model, state | last | counter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_torchvisions_backbone_replaces_ours_and_nothing_else(dtype, tmp_path):
    model, state = torchvision_state()
    torch.save({name: value.to(dtype) for name, value in state.items()}, tmp_path / "mobilenet_v2.pth")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, -1, np.float32), shapes)
    loaded = backbone_from_torchvision(read_torch_checkpoint(tmp_path / "mobilenet_v2.pth"), variables)
    back = to_torch(loaded, model)
    for name, value in back.items():
        kind, _, rest = name.partition(".")
        assert value.dtype == np.float32
        if kind == "backbone":
            np.testing.assert_array_equal(value, state["features." + rest.partition(".")[2]], err_msg=name)
        else:
            assert np.all(value == -1), name


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.zeros(1), "b": Evil()}, "b cannot be read (it is not a tensor, and no code is executed"),
        ({"features.0.0.weight": Evil()}, "it holds the keys features.0.0.weight, and no tensors by name"),
        ([torch.zeros(1)], "holds no state_dict that can be read: it is a list"),
        (b"not a file of torch", "weights.pth is not a file of PyTorch weights (it is a text file)"),
        (b"<!DOCTYPE html>\n<html>", "it is an HTML page"),
        (b"", "it is an empty file"),
        ({"a": torch.zeros(1).expand(1000)}, "a cannot be read (a tensor larger than its storage)"),
        ({"a": torch.zeros(3).to_sparse(), "b": torch.zeros(1)}, "a cannot be read"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_weights_is_one_line(tmp_path, content, words):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        read_torch_checkpoint(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_model_list_both_sides():
    model, state = torchvision_state()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    state = {name: value.numpy() for name, value in state.items()}
    state["conv1.weight"] = state.pop("features.0.0.weight")
    with pytest.raises(UserError, match="Missing: features.0.0.weight. Left over: conv1.weight."):
        backbone_from_torchvision(state, variables)
    state["features.0.0.weight"] = state.pop("conv1.weight")[:16]
    with pytest.raises(UserError, match=r"features.0.0.weight has shape \(16, 3, 3, 3\)"):
        backbone_from_torchvision(state, variables)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"operator": "conv"}, "deeplabv3plus operator 'conv' is unknown; there are: baseline, tvconv, depthwise,"),
        ({"output_stride": 32}, "output_stride 32 is unknown; there are: 16, 8."),
        ({"num_classes": 0}, "num_classes 0 must be at least 1."),
        ({"width": 0.3}, "deeplabv3plus width 0.3 is unknown; there are: 0.25, 0.5, 1.0."),
        ({"embedding_size": 3}, "field 'embedding_size' is unknown; there are: width, operator, depth, num_classes"),
        ({"stages": (1,)}, "field 'stages' is unknown"),
    ],
)
def test_unknown_fields_list_what_exists(fields, words):
    with pytest.raises(ValueError) as error:
        create_model("deeplabv3plus", **fields)
    assert words in str(error.value)
