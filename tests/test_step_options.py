"""Precision, accumulation, rematerialization, batch norm in groups, and how the rate follows the batch; one device."""

import json

import eight_devices as small
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tvconv_jax import create_model
from tvconv_jax.models.blocks import ConvNorm, call
from tvconv_jax.nn.norm import BatchNorm
from tvconv_jax.ops.batch_norm import batch_norm
from tvconv_jax.tasks.configs import face_config
from tvconv_jax.tasks.configs.base import ADDED
from tvconv_jax.tasks.forward import make_forward
from tvconv_jax.tasks.parts import learning_rate_note, optimizer_of, schedule_of
from tvconv_jax.tasks.saved_config import check_workdir
from tvconv_jax.training.mesh import make_mesh
from tvconv_jax.training.state import create_state
from tvconv_jax.training.step import GPU_OPTIONS, make_train_step
from tvconv_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("barely_optimized")

ONE = make_mesh(devices=jax.devices()[:1])


def test_bfloat16_trains_as_float32_does_and_leaves_the_state_in_float32():
    losses, state, _ = small.train(1, 1, precision="bfloat16")
    # 8 bits of every activation; each step carries the difference on.
    np.testing.assert_allclose(losses[:5], small.one_device()[:5], rtol=0.03)
    assert np.mean(losses[-5:]) < losses[0] / 2
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def test_this_xla_knows_the_options_for_gpus_with_which_a_value_is_rounded_where_the_program_says_so():
    rounded = jax.jit(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), compiler_options=GPU_OPTIONS)
    assert rounded(jnp.float32(1 + 2**-10)) == 1


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


MODELS = [
    ("mobilenetv2", {"width": 0.1, "stages": (1,), "hidden_channels": 4, "hidden_layers": 0}),
    ("shufflenetv2", {"width": 0.5, "operator": "depthwise"}),
    ("mlp_mixer", {"width": 0.1, "layers": 1}),
    ("deeplabv3plus", {"hidden_channels": 4, "hidden_layers": 0}),
]


def gradient_of(name, fields, dtype="float32"):
    """The traced gradient of a model's training pass, nothing computed."""
    model = create_model(name, **fields)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    forward = make_forward(model, ONE, precision=dtype)

    def loss(params, stats, images):
        return jnp.sum(forward(params, stats, images, dropout=jax.random.key(0))[0])

    # Flax's LayerNorm promotes by itself.
    with jax.numpy_dtype_promotion("standard" if name == "mlp_mixer" else "strict"):
        return jax.make_jaxpr(jax.grad(loss))(variables["params"], variables["batch_stats"], images)


@pytest.mark.parametrize(("name", "fields"), MODELS)
def test_models_multiply_in_bfloat16_and_normalize_in_float32(name, fields):
    traced = gradient_of(name, fields, "bfloat16")
    assert {aval.dtype for aval in traced.out_avals} == {jnp.dtype("float32")}  # of the gradients
    found = {(e.primitive.name, str(e.invars[0].aval.dtype)) for e in equations(traced.jaxpr) if e.invars}
    assert ("dot_general", "bfloat16") in found
    assert ("rsqrt", "float32") in found and ("rsqrt", "bfloat16") not in found


# The stem and every block whose input is at least half as large as the pictures; each mixer block.
@pytest.mark.parametrize(("model", "count"), list(zip(MODELS, (5, 2, 1, 2), strict=True)))
def test_remat_is_where_the_grids_are_large(model, count):
    name, fields = model
    remats = [e for e in equations(gradient_of(name, {**fields, "remat": True}).jaxpr) if "remat" in e.primitive.name]
    assert len(remats) == count
    assert not [e for e in equations(gradient_of(name, fields).jaxpr) if "remat" in e.primitive.name]


def test_remat_changes_no_bit():
    block, x = ConvNorm(4, "relu6", kernel_size=3), jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = block.init(jax.random.key(1), x, train=False)

    def loss(params, remat):
        variables_now, method = {**variables, "params": params}, lambda m, x: call(m, x, train=True, remat=remat)
        y, updates = block.apply(variables_now, x, method=method, mutable=["batch_stats"])
        return jnp.sum(jnp.square(y)), updates

    plain, again = (
        jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(variables["params"], r) for r in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, again)


def test_an_accumulated_gradient_is_the_whole_batchs():
    x = np.random.default_rng(0).standard_normal((12, 3), dtype=np.float32)

    def loss(params, stats, batch, key):
        value = jnp.mean(jnp.square(batch["x"] @ params["w"] - 1))
        return value, ({"seen": stats["seen"] + 1}, {"largest": jnp.max(batch["x"])})

    results = {}
    for parts in (1, 3):
        optimizer = optax.sgd(0.1)
        state = create_state({"w": jnp.ones(3)}, {"seen": jnp.zeros(())}, optimizer, 0, ONE)
        results[parts] = make_train_step(loss, optimizer, ONE, grad_accum_steps=parts)(state, {"x": x})
    for part in ("w",):
        np.testing.assert_allclose(results[3][0].params[part], results[1][0].params[part], rtol=1e-6)
    np.testing.assert_allclose(results[3][1]["loss"], results[1][1]["loss"], rtol=1e-6)
    assert float(results[3][0].batch_stats["seen"]) == 3  # statistics are taken part by part
    np.testing.assert_allclose(results[3][1]["largest"], np.mean([x[i::3].max() for i in range(3)]), rtol=1e-6)


@pytest.mark.parametrize("activation", ["identity", "relu6"])
def test_batch_norm_in_groups_is_that_of_each_group(activation):
    random = np.random.default_rng(0)
    x, scale, bias, pull = (random.standard_normal(s, dtype=np.float32) for s in ((6, 2, 2, 3), 3, 3, (6, 2, 2, 3)))

    def run(x, scale, bias, pull, groups):
        y, back, statistics = jax.vjp(
            lambda *a: _split(batch_norm(*a, 1e-5, activation, groups)), x, scale, bias, has_aux=True
        )
        return y, back(pull), statistics

    y, gradients, statistics = run(x, scale, bias, pull, 3)
    alone = [run(x[i : i + 2], scale, bias, pull[i : i + 2], 1) for i in (0, 2, 4)]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    close(y, np.concatenate([one[0] for one in alone]))
    close(gradients[0], np.concatenate([one[1][0] for one in alone]))
    close(gradients[1], sum(one[1][1] for one in alone))
    close(gradients[2], sum(one[1][2] for one in alone))
    for i in range(2):
        close(statistics[i], np.mean([one[2][i] for one in alone], axis=0))


def _split(result):
    return result[0], result[1:]


def config_of(**optimizer):
    config = face_config("smoke", model="mobilenetv2", width=0.1)  # batches of 16, rate 0.1
    config.optimizer.update(optimizer)
    return config


@pytest.mark.parametrize(("rule", "rate"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_rate_follows_the_batch_by_the_rule(rule, rate):
    schedule = schedule_of(config_of(lr_scaling=rule), batch_size=64, steps_per_epoch=10)
    np.testing.assert_allclose(schedule(0), rate, rtol=1e-6)


def test_the_rate_is_said_and_what_is_likely_to_be_a_mistake():
    assert learning_rate_note(config_of(), 16) == "learning rate: 0.1, times 0.1 at epochs 1.16, 1.58, 1.84 of 2"
    assert learning_rate_note(config_of(lr_scaling="linear", warmup_epochs=0.5), 8).startswith(
        "learning rate: 0.05, times"
    )
    assert learning_rate_note(config_of(warmup_epochs=0.5), 16).endswith(" of 2, growing for 0.5")
    assert "does not fall to its end: `epochs=` behind" in learning_rate_note(config_of(epochs=1.5), 16)
    assert learning_rate_note(config_of(), 8).endswith("; it belongs to batches of 16, not 8: see optimizer.lr_scaling")


def test_the_quick_recipe_is_adamw_by_its_own_keys():
    config = face_config("recipe=quick,batch_size=32,epochs=4", model="mobilenetv2", width=0.1)
    assert not {"momentum", "milestones", "factor"} & set(config.optimizer)
    assert (
        learning_rate_note(config, 32) == "learning rate: 0.0032; it grows for 0.2 epochs, then falls to 0 at epoch 4"
    )
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    optimizer = optimizer_of(config, batch_size=32, steps_per_epoch=10)
    with jax.numpy_dtype_promotion("standard"):  # Adam takes a number to the power of the step
        updates, _ = optimizer.update(jax.tree.map(lambda leaf: 5 * leaf, params), optimizer.init(params), params)
    rate = 0.0032 / 2  # the first of two steps of warm-up
    np.testing.assert_allclose(updates["scale"], -rate * np.ones(2), rtol=1e-5)  # Adam's first step has length 1
    np.testing.assert_allclose(updates["kernel"], -rate * 1.05 * np.ones((2, 2)), rtol=1e-5)  # and weights decay
    auto = face_config("recipe=quick,data=folder", model="mobilenetv2", width=0.1).train.auto.split(",")
    assert "data.batch_size" in auto and not {"optimizer.milestones", "optimizer.learning_rate"} & set(auto)


def test_drawn_faces_have_the_papers_rate_by_the_root_of_the_batch():
    """At 0.1 for batches of 64 a run now and then does not learn."""
    drawn, folder = (face_config(text, model="mobilenetv2", width=0.1) for text in ("recipe=paper", "data=folder"))
    assert learning_rate_note(drawn, 64).startswith("learning rate: 0.0354, ") and learning_rate_note(
        drawn, 512
    ).startswith("learning rate: 0.1, ")
    assert learning_rate_note(folder, 512).startswith("learning rate: 0.1, ") and "belongs" not in learning_rate_note(
        folder, 512
    )


def test_warm_up_grows_a_step_at_a_time_and_the_milestones_stay():
    plain, warm = (
        schedule_of(config_of(warmup_epochs=e, milestones=(1.0,), epochs=2.0), batch_size=16, steps_per_epoch=10)
        for e in (0.0, 0.5)
    )
    np.testing.assert_allclose([warm(i) for i in range(5)], 0.1 * np.arange(1, 6) / 5, rtol=1e-6)
    for step in (5, 9, 10, 19):
        assert float(warm(step)) == float(plain(step))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr_scaling": "cubic"}, "optimizer.lr_scaling 'cubic' is unknown; there are: none, linear, sqrt"),
        ({"warmup_epochs": 9.0}, "optimizer.warmup_epochs 9.0 must be 0 to optimizer.epochs, 2.0"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(change, words):
    with pytest.raises(UserError) as error:
        schedule_of(config_of(**change), batch_size=16, steps_per_epoch=10)
    assert words in str(error.value)


@pytest.mark.parametrize("options", [{"precision": "float16"}, {"batch_norm": "local"}])
def test_an_unknown_precision_or_norm_is_refused(options):
    with pytest.raises(UserError, match="is unknown; there are: "):
        make_forward(small.Small(), ONE, **options)


def test_a_run_of_an_older_version_goes_on_and_on_any_mesh(tmp_path):
    config = face_config("smoke", model="mobilenetv2", width=0.1)
    old = json.loads(config.to_json())
    for section, keys in ADDED.items():
        for key in keys:
            del old[section][key]
    del old["mesh"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    config.mesh.model = 4
    check_workdir(config, tmp_path)
    config.train.precision = "bfloat16"
    with pytest.raises(UserError, match="train.precision: float32 there, bfloat16 now"):
        check_workdir(config, tmp_path)


def test_gradients_and_statistics_have_the_dtypes_of_their_parameters():
    x, scale = jnp.ones((2, 3, 3, 4)), jnp.ones(4, jnp.bfloat16)
    gradients = jax.grad(lambda *a: jnp.sum(batch_norm(*a, 1e-5, "relu")[0]), (1, 2))(x, scale, scale)
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype(jnp.bfloat16)}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        norm, wide = BatchNorm(), jnp.ones((2, 3, 3, 4), jnp.float64)
        variables = norm.init(jax.random.key(0), wide, train=False)
        _, changed = norm.apply(variables, wide, train=True, mutable="batch_stats")
        assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype(jnp.float32)}
