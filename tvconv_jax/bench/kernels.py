"""Kernels of a compiled program, and the bytes that they read and write, by part of the model."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tvconv_jax.bench.hlo import Instruction, Program, memory_bytes, tuple_elements

# Opcodes that run other computations, and those that move nothing.
_STRUCTURE = ("while", "conditional", "call", "async-start")
_NO_WORK = {
    *_STRUCTURE,
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "domain"),
    *("partition-id", "replica-id"),
}
_NO_CALL = ("AllocateBuffer", "ConcatBitcast")
_COPIES = ("copy-start", "slice-start")  # of a TPU, beside its kernels

PARTS = (
    *("spatial operator", "weight generator", "norm and activation", "1x1 and stem"),
    *("optimizer", "head and loss", "other"),
)
_SPATIAL = re.compile(r"block_\d+|branch|shortcut")  # modules whose `conv` is the spatial operator


class Kernel(NamedTuple):
    """A kernel, or a call of a library, that a program runs."""

    opcode: str
    op_name: str  # path in the Python code, as JAX writes it
    size: int  # bytes that it reads and writes: every operand and result once
    times: int  # runs in a step

    @property
    def launches(self) -> int:
        """Kernels in a step; a copy between memory and the chip's own runs beside them."""
        return 0 if self.opcode in _COPIES else self.times


class PartTotal(NamedTuple):
    """All kernels of a part of the model in one direction."""

    part: str  # one of PARTS
    backward: bool
    kernels: int
    size: int  # bytes read and written


def kernels(program: Program) -> list[Kernel]:
    """Return the kernels in order; those in a loop of a known trip count run so often.

    Bytes are those between memory and cores, if no cache holds them and every operand, or slice of one, is read whole.
    Both branches of a conditional count.
    """
    found = []
    for name, times in program.runs(follow=_STRUCTURE).items():
        sizes: dict[str, int] = {}
        op_names: dict[str, str] = {}
        for one in program.computations.get(name, ()):
            sizes[one.name] = memory_bytes(one.shape)
            before = (op_names.get(operand, "") for operand in one.operands)
            op_names[one.name] = next(filter(None, (_op_name(one, program), *before)), "")  # a copy may have none
            idle = one.opcode in _NO_WORK or one.opcode.endswith(("-update", "-done"))
            if not idle and one.attribute("custom_call_target") not in _NO_CALL:
                read = sum(map(min, (sizes.get(operand, 0) for operand in one.operands), _parts(one, program)))
                found.append(Kernel(one.opcode, op_names[one.name], _moved(one, read), times))
    return found


def _moved(instruction: Instruction, read: int) -> int:
    """Return the bytes that an instruction reads and writes, of operands with ``read`` bytes in memory."""
    opcode, written = instruction.opcode, memory_bytes(instruction.shape)
    if opcode in _COPIES:
        ends = tuple_elements(instruction.shape)[:2]  # one of them may lie on the chip, or be a part of the other
        return min(memory_bytes(end, on_chip=True) for end in ends) * sum(memory_bytes(end) > 0 for end in ends)
    if opcode.endswith("-start") and opcode != "all-reduce-start":
        return written  # its result holds its operands
    return written + (min(read, written) if opcode in ("slice", "dynamic-slice") else read)


def _parts(instruction: Instruction, program: Program) -> Iterator[float]:
    """Yield the bytes that an instruction reads of each operand: of one that a fusion only slices, the slices."""
    called = [one for name in instruction.called for one in program.computations.get(name, ())]
    parameters = {one.rest.split(")")[0]: one.name for one in called if one.opcode == "parameter"}
    for index, _ in enumerate(instruction.operands):
        name = parameters.get(str(index)) if instruction.opcode == "fusion" else None
        readers = [one for one in called if name in one.operands]
        sliced = bool(readers) and all(one.opcode in ("slice", "dynamic-slice") for one in readers)
        yield sum(memory_bytes(one.shape) for one in readers) if sliced else math.inf


def _op_name(instruction: Instruction, program: Program) -> str:
    """Return the name of an instruction, or else of the last one in the computation that it calls."""
    inner = (one for called in instruction.called for one in reversed(program.computations.get(called, [])))
    names = (one.attribute("op_name") for one in (instruction, *inner))
    return next(filter(None, names), "")


def part_of(op_name: str) -> str:
    """Return the part of the model that an operation belongs to, one of :data:`PARTS`, by the modules in its name.

    The innermost module decides. Generators and the optimizer have a scope of that name.
    """
    path = op_name.split("/")
    scopes = re.split("[/()]", op_name)  # JAX wraps the outermost one: transpose(jvp(generator))
    for name in ("optimizer", "generator", "head"):
        if name in scopes:
            return {"optimizer": "optimizer", "generator": "weight generator", "head": "head and loss"}[name]
    for parent, name in reversed(list(zip(["", *path], path, strict=False))):
        if name.startswith("norm"):
            return "norm and activation"
        if name == "conv":
            return "spatial operator" if _SPATIAL.fullmatch(parent) else "1x1 and stem"
        if name in ("expand", "project", "stem", "last"):
            return "1x1 and stem"
    outside = "jvp()" in op_name or "jvp(jit(" in op_name  # differentiated, but in no module
    return "head and loss" if outside else "other"


def by_part(found: Iterable[Kernel]) -> list[PartTotal]:
    """Return the totals of all parts and directions that have kernels, most bytes first."""
    totals: dict[tuple[str, bool], list[int]] = {}
    for kernel in found:
        total = totals.setdefault((part_of(kernel.op_name), "transpose(" in kernel.op_name), [0, 0])
        total[0] += kernel.launches
        total[1] += kernel.times * kernel.size
    return sorted((PartTotal(*key, *total) for key, total in totals.items()), key=lambda total: -total.size)
