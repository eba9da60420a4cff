"""The options of layers, operators and models: one table of what they may be, whoever builds them."""

import math
from typing import get_args

import pytest

from tvconv_jax.checks import FIELDS, Checked, kinds_of
from tvconv_jax.convert import to_torch
from tvconv_jax.layers import TVConv, WeightGenerator
from tvconv_jax.models.blocks import ConvNorm
from tvconv_jax.models.registry import MODELS, OPERATORS, create_model
from tvconv_jax.norm import BatchNorm

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
            if optional and value is None:
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
