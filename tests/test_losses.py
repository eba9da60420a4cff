"""AM-softmax: by hand, against plain PyTorch, at the edges."""

import math

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tvconv_jax.losses import am_softmax, am_softmax_logits

pytestmark = pytest.mark.usefixtures("barely_optimized")


def batch(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    random = np.random.default_rng(seed)
    embeddings = 3 * random.standard_normal((6, 8), dtype=np.float32)
    class_weights = random.standard_normal((8, 5), dtype=np.float32)
    return jnp.asarray(embeddings), jnp.asarray(class_weights), jnp.asarray(random.integers(0, 5, 6))


def test_by_hand():
    # (3, 4) has the cosines 0.6 and 0.8 to the axes, whatever the axes' lengths.
    embeddings, class_weights = jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 0.0], [0.0, 5.0]])
    logits = am_softmax_logits(embeddings, class_weights, jnp.array([0]), margin=0.35, scale=10.0)
    np.testing.assert_allclose(logits, [[10 * (0.6 - 0.35), 10 * 0.8]], rtol=1e-6)
    loss = am_softmax(embeddings, class_weights, jnp.array([0]), margin=0.35, scale=10.0)
    np.testing.assert_allclose(loss, [math.log(1 + math.exp(8 - 2.5))], rtol=1e-6)


def test_without_margin_is_plain_cross_entropy():
    embeddings, class_weights, labels = batch()
    logits = am_softmax_logits(embeddings, class_weights, labels, margin=0.0, scale=1.0)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(6), labels]
    loss = am_softmax(embeddings, class_weights, labels, margin=0.0, scale=1.0)
    # Two ways to write one sum in float32.
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def torch_loss(embeddings: np.ndarray, class_weights: np.ndarray, labels: np.ndarray) -> tuple:
    """Losses and gradients of their sum, as PyTorch's own functions give them."""
    e, w = (torch.tensor(np.asarray(a), requires_grad=True) for a in (embeddings, class_weights))
    y = torch.tensor(np.asarray(labels), dtype=torch.int64)
    cosines = (torch.nn.functional.normalize(e) @ torch.nn.functional.normalize(w, dim=0)).clamp(-1, 1)
    logits = 32 * (cosines - 0.35 * torch.nn.functional.one_hot(y, w.shape[1]))
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), e.grad.numpy(), w.grad.numpy()


@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradients_equal_pytorch(seed):
    embeddings, class_weights, labels = batch(seed)
    expected = torch_loss(embeddings, class_weights, labels)
    grads = jax.grad(lambda e, w: jnp.sum(am_softmax(e, w, labels)), argnums=(0, 1))(embeddings, class_weights)
    # Both are float32, with sums in another order; the scale of 32 multiplies the rounding of a cosine.
    np.testing.assert_allclose(am_softmax(embeddings, class_weights, labels), expected[0], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads, expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_embedding_equal_to_a_class_passes_its_gradient():
    # The cosine is exactly 1 there, the bound at which torch.clamp still passes the gradient.
    embeddings, class_weights, labels = jnp.array([[1.0, 0.0]]), jnp.eye(2), jnp.array([1])
    expected = torch_loss(embeddings, class_weights, labels)
    grad = jax.grad(lambda e: jnp.sum(am_softmax(e, class_weights, labels)))(embeddings)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-6)


@pytest.mark.parametrize("name", ["mobilenetv2_w0.1_tvconv", "mobilenetv2_w0.5_depthwise", "shufflenetv2_w0.5_tvconv"])
def test_golden(name):
    arrays, meta = goldens.load(name)
    config = meta["config"]
    labels = jnp.arange(config["batch"]) % config["classes"]
    class_weights = jnp.asarray(goldens.normal("head.weight", (512, config["classes"])))
    losses = am_softmax(jnp.asarray(arrays["train_output"]), class_weights, labels)
    # The same float32 embeddings: only the order of sums differs.
    np.testing.assert_allclose(jnp.mean(losses), arrays["losses"][0], rtol=1e-5)


def test_zero_vectors_have_finite_loss_and_gradient():
    def total(embeddings, class_weights):
        return jnp.sum(am_softmax(embeddings, class_weights, jnp.array([0, 1])))

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(jnp.zeros((2, 3)), jnp.zeros((3, 4)))
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_bfloat16_is_computed_in_float32():
    embeddings, class_weights, labels = batch()
    half = embeddings.astype(jnp.bfloat16)
    loss = am_softmax(half, class_weights, labels)
    assert loss.dtype == jnp.float32
    # Exactly what the rounded embeddings give in float32: nothing after the input is rounded.
    np.testing.assert_array_equal(loss, am_softmax(half.astype(jnp.float32), class_weights, labels))


@pytest.mark.parametrize("label", [-1, 5])
def test_label_outside_is_nan_for_that_example_only(label):
    embeddings, class_weights, labels = batch()
    loss = jax.jit(am_softmax)(embeddings, class_weights, labels.at[2].set(label))
    assert np.isnan(loss).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": jnp.zeros(8)}, r"embeddings have shape \(8,\); they must be \[n, d\]"),
        ({"embeddings": jnp.zeros((6, 8), jnp.int32)}, "embeddings are int32; they must be floating"),
        ({"class_weights": jnp.zeros((5, 8))}, r"class_weights have shape \(5, 8\); .* d is 8"),
        ({"class_weights": jnp.zeros((8, 5), jnp.int32)}, "class_weights are int32; they must be floating"),
        (
            {"labels": jnp.zeros((6, 1), jnp.int32)},
            r"labels have shape \(6, 1\); they must be \[n\], here \(6,\)",
        ),
        ({"labels": jnp.zeros(6)}, "labels are float32; they must be integers"),
        ({"scale": 0.0}, "scale=0.0 must be positive"),
    ],
)
def test_errors(change, message):
    embeddings, class_weights, labels = batch()
    arguments = {"embeddings": embeddings, "class_weights": class_weights, "labels": labels} | change
    with pytest.raises(ValueError, match=message):
        am_softmax(**arguments)


def test_a_label_of_eight_bits_stands_for_one_class():
    embeddings, labels = batch()[0], jnp.array([0, 5, 43, 44, 200, 255])
    class_weights = jnp.asarray(np.random.RandomState(0).standard_normal((8, 300)), jnp.float32)
    np.testing.assert_array_equal(
        am_softmax(embeddings, class_weights, labels.astype(jnp.uint8)), am_softmax(embeddings, class_weights, labels)
    )
