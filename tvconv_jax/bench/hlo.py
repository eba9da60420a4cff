"""Parser of a compiled program's text (HLO), as XLA's compilers for CPUs, GPUs and TPUs write it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([^,\s)]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_PARTITIONS = re.compile(r"num_partitions=(\d+)")
# A type, its axes and, behind them, the layout: axes from the innermost, then tiles T(8,128) and a memory space S(1).
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_ON_CHIP = re.compile(r"S\((?!0\))\d+\)")  # memory space 0 is the device's memory


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    shape: str  # of the result
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        return list(dict.fromkeys(_NAME.findall(self.rest.split("), ")[0])))

    @property
    def called(self) -> Iterator[str]:
        """Names of the computations that it runs."""
        yield from _CALLED.findall(self.rest)
        if branches := _BRANCHES.search(self.rest):
            yield from (name.strip(" %") for name in branches.group(1).split(","))

    @property
    def trips(self) -> int:
        """Runs of a loop's body, 1 if their number is not known."""
        trips = _TRIPS.search(self.rest)
        return int(trips.group(1)) if trips else 1

    def attribute(self, name: str) -> str:
        """Return a text attribute such as ``op_name``, empty if there is none."""
        found = re.search(rf'\b{name}="([^"]*)"', self.rest)
        return found.group(1) if found else ""


class Program(NamedTuple):
    """A program of one device; the same runs on all ``devices``."""

    computations: dict[str, list[Instruction]]
    entry: str
    devices: int

    def runs(self, follow: tuple[str, ...] = ()) -> dict[str, int]:
        """Return how often each computation runs in one run of the program, in order of first use.

        Args:
            follow: Opcodes whose computations count; default: all.
        """
        times: dict[str, int] = defaultdict(int)

        def run(name: str, count: int) -> None:
            times[name] += count
            for instruction in self.computations.get(name, ()):
                ends = instruction.opcode.endswith(("-update", "-done"))  # of what -start counts
                if not ends and (not follow or instruction.opcode in follow):
                    for called in instruction.called:
                        run(called, count * instruction.trips)

        run(self.entry, 1)
        return dict(times)


def parse(text: str) -> Program:
    """Parse ``compiled.as_text()``."""
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            computations.setdefault(name, []).append(Instruction(*found.groups()))
        elif start := _COMPUTATION.match(line):
            name = start.group(2)
            entry = name if start.group(1) else entry
    partitions = _PARTITIONS.search(text)
    return Program(computations, entry, int(partitions.group(1)) if partitions else 1)


def tuple_elements(shape: str) -> list[str]:
    """Split ``(f32[2], (s32[], u8[3]))`` into its elements; what is not a tuple is its only one."""
    elements, depth = [""], 0
    for character in shape[1:-1] if shape.startswith("(") else shape:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            elements.append("")
        else:
            elements[-1] += character
    return [element.strip() for element in elements]


def shape_bytes(text: str) -> int:
    """Return the bytes of the numbers in ``f32[8,4]{1,0}`` or in a tuple of such."""
    return sum(math.prod(_axes(dims)) * _bits(kind) // 8 for kind, dims, *_ in _SHAPE.findall(text))


def memory_bytes(text: str, *, on_chip: bool = False) -> int:
    """Return the bytes of a shape with the padding of a TPU's tiles; what lies on the chip counts if asked for."""
    return sum(
        math.prod(_padded(_axes(dims), _axes(order), tiles)) * _bits(kind) // 8
        for kind, dims, order, tiles in _SHAPE.findall(text)
        if on_chip or not _ON_CHIP.search(tiles)
    )


def _padded(dims: list[int], order: list[int], tiles: str) -> list[int]:
    """Return the axes from the outermost, rounded up to the first tile."""
    tile = _TILE.search(tiles)
    sizes = [dims[axis] for axis in reversed(order)] if order else dims
    if not tile:
        return sizes
    sides = _axes(tile.group(1))
    sizes = [1] * (len(sides) - len(sizes)) + sizes
    inner = [-(-size // side) * side for size, side in zip(sizes[len(sizes) - len(sides) :], sides, strict=True)]
    return sizes[: len(sizes) - len(sides)] + inner


def _axes(text: str) -> list[int]:
    return [int(axis) for axis in text.split(",") if axis]


def _bits(kind: str) -> int:
    return {"pred": 8, "bf16": 16}.get(kind) or int(re.findall(r"\d+", kind)[0])
