"""The strict ``:key=value,...`` arguments behind a config's file name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tvconv_jax.tasks.configs.renamed import ARGUMENTS
from tvconv_jax.tasks.keys import did_you_mean
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.moved import print_renamed
from tvconv_jax.utils.sizes import parse_size


class Argument(NamedTuple):
    """One ``:`` argument of a config."""

    kind: Callable[[str], Any]  # int, float, str, bool or parse_size; a bool is set by its bare name
    default: Any  # its value where it is not given
    meaning: str = ""
    choices: tuple[str, ...] = ()  # of a str; empty: any


def common_arguments(operators: Sequence[str], default: str | None = None) -> dict[str, Argument]:
    """Return the arguments that all configs have, with the operators of their model; the first is the default."""
    return {
        "operator": Argument(str, default or operators[0], "spatial operator", tuple(operators)),
        "image_size": Argument(int, None, "height and width of the images, in pixels"),
        "epochs": Argument(float, None, "epochs; milestones and warm-up keep their proportions"),
        "seed": Argument(int, 0, "seed of weights, order and augmentation"),
        "smoke": Argument(bool, False, "a run of seconds, with one block in every stage"),
    }


def own_arguments() -> dict[str, Argument]:
    """Return the arguments that the configs for images of one's own have otherwise, or more than others."""
    return {
        "image_size": Argument(parse_size, None, "height and width of the images, in pixels, as 64 or 48x96"),
        "epochs": Argument(float, None, "epochs; the warm-up keeps its proportion"),
        "batch_size": Argument(int, None, "images in a batch, of all devices together"),
    }


def with_given(size: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a config, with those that were given in their place."""
    return {name: value if given[name] is None else given[name] for name, value in size.items()}


def parse_arguments(text: str | None, arguments: dict[str, Argument]) -> dict[str, Any]:
    """Return a value for every argument of ``key=value,key=value,flag``, the text behind the colon.

    Raises:
        UserError: For an unknown key, a value of another type or choice, or a key given twice; lists what exists.
    """
    values, seen = {name: argument.default for name, argument in arguments.items()}, set()
    for part in filter(None, (text or "").split(",")):
        name, given, value = part.partition("=")
        if name not in arguments and (new := ARGUMENTS.get(name)) in arguments:
            print_renamed(f"config argument {name}", new)
            name = new
        if name not in arguments:
            there = ", ".join(arguments)
            raise UserError(f"config argument {name!r} is unknown; there are: {there}{did_you_mean(name, arguments)}.")
        if name in seen:
            raise UserError(f"config argument {name!r} is given twice; give it once.")
        seen.add(name)
        values[name] = _value(name, value if given else None, arguments[name])
    return values


def _value(name: str, text: str | None, argument: Argument) -> Any:
    if argument.kind is bool:
        if text not in (None, "true", "false"):
            raise UserError(f"config argument {name}={text} must be true or false, or just {name}.")
        return text != "false"
    if not text:
        raise UserError(f"config argument {name!r} needs a value, as in {name}={argument.default}.")
    try:
        value = argument.kind(text)
    except ValueError:
        rule = "64, or height x width as 48x64" if argument.kind is parse_size else f"of type {argument.kind.__name__}"
        raise UserError(f"config argument {name}={text} must be {rule}.") from None
    if argument.choices and value not in argument.choices:
        raise UserError(f"config argument {name}={text} is unknown; there are: {', '.join(argument.choices)}.")
    return value
