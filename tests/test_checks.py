"""The options of layers, operators and models: one table of what they may be, whoever builds them."""

import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tvconv_jax.convert.reference import to_torch
from tvconv_jax.models.blocks import ConvNorm
from tvconv_jax.models.registry import MODELS, OPERATORS, create_model
from tvconv_jax.nn.checks import FIELDS, Checked, kinds_of
from tvconv_jax.nn.layers import TVConv, WeightGenerator
from tvconv_jax.nn.norm import BatchNorm

# Every option of every layer, operator and model, with values that it must refuse.
BAD = {int: (0.5, -1, 1 << 40, True, "3", None), float: (-1.0, math.nan, math.inf, "1", None), bool: ("no", 2, None)}
ROWS = dict.fromkeys(row.module for row in (*OPERATORS.values(), *MODELS.values()))  # in order, for all workers
MODULES = [*ROWS, WeightGenerator, BatchNorm, ConvNorm]


@pytest.mark.parametrize("module", MODULES)
def test_every_option_is_checked_when_the_layer_is_built_by_whoever_builds_it(module):
    required = {"features": (9, 2) if module is WeightGenerator else 8} if "features" in module.__annotations__ else {}
    module(**required)
    for field, kind in kinds_of(module).items():
        if optional := type(None) in get_args(kind):
            kind = get_args(kind)[0]
        for value in BAD.get(kind, ("reflect", 3, None)):
            if value is None and (optional or field == "dtype"):
                continue
            with pytest.raises(ValueError, match=f"^{field}.* (must be|is not one of)"):
                module(**{**required, field: value})


def test_every_number_that_a_module_takes_has_a_range():
    def below(kind):
        for one in kind.__subclasses__():
            yield from (one, *below(one))

    ours = [module for module in below(Checked) if module.__module__.startswith("tvconv_jax.")]
    assert len(ours) > 35
    numbers = {
        name for module in ours for name, kind in kinds_of(module).items() if {int, float} & {kind, *get_args(kind)}
    }
    assert numbers == set(FIELDS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": 1_000_000.0}, "depth 1000000.0 must be greater than 0, and at most 16"),
        ({"hidden_layers": 1 << 40}, "hidden_layers 1099511627776 must be at least 0, and at most 64"),
        ({"use_bias": "false"}, "use_bias='false' must be True or False"),
        ({"implementation": "foo"}, r"implementation='foo' is not one of \['shifted', 'patches'\]"),
        ({"generator_padding": "reflect"}, r"generator_padding='reflect' is not one of \['zeros', 'edge'\]"),
        ({"temperature": math.nan}, "temperature nan must be greater than 0, and finite"),
    ],
)
def test_a_model_by_name_refuses_what_its_layers_refuse(fields, words):
    with pytest.raises(ValueError, match=words):
        create_model("mobilenetv2", **fields)


def test_a_field_of_a_users_own_subclass_is_the_users_business():
    class Mine(TVConv):
        depth: float = -1.0
        gain: float = math.nan
        heads: str = "many"

    assert math.isnan(Mine(depth=-2.0).gain)
    with pytest.raises(ValueError, match="hidden_layers -1 must be at least 0"):
        Mine(hidden_layers=-1)
    with pytest.raises(ValueError, match="Mine has no counterpart in the reference"):
        to_torch({}, Mine())


@pytest.mark.parametrize("stages", [(1, 3), [1, 3], range(1, 4, 2), np.array([1, 3]), np.array([1.0, 3.0])])
def test_stages_are_any_sequence_of_numbers(stages):
    model = create_model("mobilenetv2", stages=stages)
    assert model.stages == (1, 3) and hash(model.clone(conv=None, pointwise=None)) is not None


@pytest.mark.parametrize("stages", [3, "13", {1, 3}, np.array(3), np.array([[1, 3]]), [[1], [3, 4]]])
def test_what_is_not_a_sequence_of_stages_is_refused_in_a_line(stages):
    with pytest.raises(ValueError, match="^stages=.* must be a list|^mobilenetv2 stage .* is unknown"):
        create_model("mobilenetv2", stages=stages)


def test_an_array_is_not_a_choice():
    with pytest.raises(ValueError, match="width .* is unknown; there are: 0.1"):
        create_model("mobilenetv2", width=np.array([0.1, 0.2]))


def test_a_fraction_may_be_an_array_of_one_number_and_follow_a_schedule():
    assert BatchNorm(momentum=jnp.float32(0.5), epsilon=np.array(1e-3)).momentum == 0.5
    with pytest.raises(ValueError, match="momentum 1.5 must be at least 0, and at most 1"):
        BatchNorm(momentum=jnp.float32(1.5))
    with pytest.raises(ValueError, match="momentum nan"):
        BatchNorm(momentum=np.array(math.nan))

    def routed(temperature):
        return OPERATORS["dyconv_dw"].module(temperature=temperature).init(jax.random.key(0), jnp.ones((1, 4, 4, 8)))

    jax.eval_shape(routed, 30.0)
    with pytest.raises(ValueError, match="kernel_size .* must be a whole number"):
        jax.eval_shape(lambda k: TVConv(kernel_size=k).init(jax.random.key(0), jnp.ones((1, 4, 4, 8))), 3)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_compute_and_keep_parameters_in_the_dtypes_given(name):
    fields = {"features": 8} if OPERATORS[name].place == "pointwise" else {}
    x = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    for dtype in (None, jnp.bfloat16):
        module = OPERATORS[name].module(**fields, dtype=dtype, param_dtype=jnp.bfloat16)
        y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
        assert y.dtype == (dtype or jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("bfloat16")}
