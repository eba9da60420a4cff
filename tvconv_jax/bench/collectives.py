"""Collectives of a compiled program, parsed from its text as XLA's CPU compiler writes it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

# Bytes that a device sends in a ring of n devices, each with a result of s bytes. No algorithm sends less (Patarasuk
# and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
SENT = {
    "all-reduce": lambda n, s: 2 * (n - 1) / n * s,  # reduce, then gather
    "all-gather": lambda n, s: (n - 1) / n * s,  # s: the gathered array
    "reduce-scatter": lambda n, s: (n - 1) * s,  # s: the part that a device keeps
    "all-to-all": lambda n, s: (n - 1) / n * s,
    "collective-permute": lambda n, s: s,
}

_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(SENT)})\(")
_CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%([^,\s)]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w*)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}")
_PARTITIONS = re.compile(r"num_partitions=(\d+)")


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


def collectives(text: str) -> list[Collective]:
    """Return the collectives of ``compiled.as_text()``; in a loop of a known trip count they run so often.

    Raises:
        ValueError: If a group of devices is written in an unknown way.
    """
    match = _PARTITIONS.search(text)
    devices = int(match.group(1)) if match else 1
    lines = defaultdict(list)
    entry = name = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            name = start.group(2)
            entry = name if start.group(1) else entry
        lines[name].append(line)
    times = _times(lines, entry)
    found = []
    for name, body in lines.items():
        for line in body if times[name] else ():
            if hit := _COLLECTIVE.search(line):
                found.append(Collective(hit.group(2), shape_bytes(hit.group(1)), _group(line, devices), times[name]))
    return found


def shape_bytes(text: str) -> int:
    """Return the bytes of ``f32[8,4]{1,0}`` or of a tuple of such."""
    bits = {"pred": 8, "bf16": 16}
    return sum(
        math.prod(map(int, filter(None, dims.split(",")))) * (bits.get(kind) or int(re.search(r"\d+", kind)[0])) // 8
        for kind, dims in _SHAPE.findall(text)
    )


def _times(lines: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Return the runs of each computation in one run of the entry."""
    times: dict[str, int] = defaultdict(int)

    def run(name: str, count: int) -> None:
        times[name] += count
        for line in lines.get(name, ()):
            trips = _TRIPS.search(line)
            for called in _called(line):
                run(called, count * (int(trips.group(1)) if trips else 1))

    run(entry, 1)
    return times


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    if branches := _BRANCHES.search(line):
        yield from (name.strip(" %") for name in branches.group(1).split(","))


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
