"""Collectives of a compiled program, and the bytes that they send."""

import math
import re
from typing import NamedTuple

from tvconv_jax.bench.hlo import Program, shape_bytes, tuple_elements

# Bytes that a device sends in a ring of n devices, each with a result of s bytes. No algorithm sends less (Patarasuk
# and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
SENT = {
    "all-reduce": lambda n, s: 2 * (n - 1) / n * s,  # reduce, then gather
    "all-gather": lambda n, s: (n - 1) / n * s,  # s: the gathered array
    "reduce-scatter": lambda n, s: (n - 1) * s,  # s: the part that a device keeps
    "all-to-all": lambda n, s: (n - 1) / n * s,
    "collective-permute": lambda n, s: s,
}

_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}")


class Collective(NamedTuple):
    """A collective operation of a program."""

    kind: str  # a key of SENT
    size: int  # bytes of its result on a device
    group: int  # number of devices that take part together
    times: int  # runs in a step

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return self.times * SENT[self.kind](self.group, self.size)


def collectives(program: Program) -> list[Collective]:
    """Return the collectives of a program; in a loop of a known trip count they run so often.

    Raises:
        ValueError: If a group of devices is written in an unknown way.
    """
    found = []
    for name, times in program.runs().items():
        for one in program.computations.get(name, ()):
            kind = one.opcode.removesuffix("-start")
            if kind in SENT:
                # What starts a copy holds its operand and its result.
                both = kind != "all-reduce" and one.opcode != kind
                result = tuple_elements(one.shape)[1] if both else one.shape
                found.append(Collective(kind, shape_bytes(result), _group(one.rest, program.devices), times))
    return found


def _group(line: str, devices: int) -> int:
    if listed := _LISTED.search(line):
        return listed.group(1).count(",") + 1
    if iota := _IOTA.search(line):
        return int(iota.group(1))
    if mesh := _MESH.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)))
    if "replica_groups={}" in line or "source_target_pairs" in line:
        return devices
    raise ValueError(f"the devices of a collective are written in an unknown way: {line.strip()[:200]}")
