"""Plan of a training step on devices that are not here: memory, kernels, traffic, and images/s at best.

``python -m tvconv_jax.main --mode=plan --config=... --device-kind=h200|v5e:8x8|tpu-v5e [--identities=1000000]``
compiles the training step itself, from shapes alone: nothing is computed, no data is read. XLA's own GPU or TPU
compiler does that for a described device (:mod:`.targets`). For other kinds, or without its plugin, the plan is an
estimate from the program for as many devices (``--devices=64``) as XLA emulates on a CPU.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from tvconv_jax.bench.collectives import Collective, collectives
from tvconv_jax.bench.device_specs import DeviceSpec, device_spec
from tvconv_jax.bench.hlo import parse
from tvconv_jax.bench.kernels import PartTotal, by_part, kernels
from tvconv_jax.bench.planned_job import WITH_HEAD, generator_macs, make_job, step_shapes
from tvconv_jax.bench.targets import Target, topology_devices
from tvconv_jax.metrics.complexity import count
from tvconv_jax.utils.progress import working
from tvconv_jax.utils.sizes import height_width

# Forward, gradient of the inputs, gradient of the weights; a multiply and an add each.
FLOPS_PER_MAC = 3 * 2
IDENTITIES, CLASSES = 10_000, 10  # where none are given
_NEEDED = re.compile(r"([\d.]+)([KMGT])\b")  # of bytes, in an error of the TPU's compiler


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training step on devices of a kind; bytes, FLOPs and seconds are those of a step on one device."""

    kind: DeviceSpec
    mesh: dict[str, int]  # devices along each axis
    batch_size: int  # images in a step, on all devices together
    identities: int  # classes of the head
    parameters: dict[str, int]  # trained numbers of the model and of the head, on all devices together
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int  # images, labels, running statistics and other inputs
    activation_bytes: int  # temporaries of the program: activations, gradients, buffers of collectives
    flops: float  # as XLA counts them in the program
    counted_flops: float  # of products alone, as tvconv_jax.metrics.complexity counts them
    generator_flops: float  # of those, TVConv's weight generators: the same on every device, whatever their number
    float32_share: float  # of counted_flops in float32; less than 1 with train.precision=bfloat16
    accessed_bytes: float  # between memory and cores; of an estimate, as XLA counts them in the program for a CPU
    traffic: list[Collective]
    # Of a program that was compiled for the device itself; of an estimate empty.
    compiler: str = ""  # its package and version
    parts: list[PartTotal] = dataclasses.field(default_factory=list)
    refusal: str = ""  # the compiler's error, if the step does not fit
    compile_seconds: float = 0.0

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def memory(self) -> int:
        """Bytes that a device holds at once; the state is updated in place."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.activation_bytes

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(collective.sent for collective in self.traffic)

    @property
    def seconds(self) -> dict[str, float]:
        """Time of compute, memory and links at their peaks."""
        links = self.kind.near_links if self.devices <= self.kind.near else self.kind.far_links
        per_flop = self.float32_share / self.kind.float32 + (1 - self.float32_share) / self.kind.bfloat16
        return {
            "compute": max(self.flops, self.counted_flops) * per_flop,
            "memory": self.accessed_bytes / self.kind.reachable_bandwidth,
            "links": self.sent / links,
        }

    @property
    def images_per_second(self) -> float:
        """Images/s of all devices, if compute, memory and links overlap fully at their peaks."""
        return self.batch_size / max(self.seconds.values())

    @property
    def images_per_second_at_best(self) -> float:
        """The same with perfect fusion, which reads and writes everything in memory only once."""
        once = min(self.seconds["memory"], 2 * self.memory / self.kind.reachable_bandwidth)
        return self.batch_size / max((self.seconds | {"memory": once}).values())

    @property
    def fits(self) -> bool:
        return not self.refusal and self.memory <= self.kind.memory

    @property
    def kernels(self) -> int:
        """Kernels that a step launches; 0 for an estimate."""
        return sum(part.kernels for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the properties, for JSON."""
        derived = ("devices", "memory", "sent", "seconds", "images_per_second", "images_per_second_at_best", "fits")
        fields = dataclasses.asdict(self) | {name: getattr(self, name) for name in (*derived, "kernels")}
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in ("traffic", "parts")}
        return fields | {"kind": self.kind._asdict()} | rows


def make_plan(config: ConfigDict, *, kind: str, identities: int | None = None, target: Target | None = None) -> Plan:
    """Compile the step of a face, classification or segmentation config for a target, or else estimate it.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.face_config` or
            :func:`tvconv_jax.tasks.configs.classification_config` makes it; its data is not read.
        kind: A kind of device, see :func:`tvconv_jax.bench.device_specs.device_spec`.
        identities: Classes of the head; ``None``: :data:`IDENTITIES`, or for the others ``model.num_classes`` or,
            where that is 0, :data:`CLASSES`.
        target: What its plugin compiles for; ``None``: an estimate for all devices of this process.

    Raises:
        UserError: If the config is of another task, or does not fit the devices.
    """
    chosen, has_head = device_spec(kind), config.task in WITH_HEAD
    if identities is None:
        identities = IDENTITIES if has_head else config.model.get("num_classes") or CLASSES
    if target:  # before anything is compiled: JAX looks once; its cache wants the devices that are not here
        jax.config.update("jax_enable_compilation_cache", False)
    job = make_job(config, identities, topology_devices(target) if target else jax.devices())
    state, batch = step_shapes(job)
    parts_of = state.params if has_head else {"model": state.params}
    sizes = {"parameter_bytes": _bytes(state.params), "optimizer_bytes": _bytes(state.opt_state)}
    fixed, begin = sum(sizes.values()), time.monotonic()
    try:
        compiled = _compile(job, state, batch, target, accelerator=kind != "cpu")
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = _refused(str(error), _bytes((state, batch)), fixed)
    else:
        found = _counts(compiled, target, job.config.train.grad_accum_steps, fixed)
    return Plan(
        kind=chosen,
        mesh=dict(job.mesh.shape),
        batch_size=config.data.batch_size,
        identities=identities,
        parameters={name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts_of.items()},
        compiler=target.compiler if target else "",
        **sizes,
        **_products(job, identities if has_head else 0),
        **found,
        compile_seconds=round(time.monotonic() - begin, 1),
    )


def _products(job: Any, identities: int) -> dict[str, float]:
    """Return the FLOPs of products in a step on a device, with a head of so many identities."""
    config, grid = job.config, height_width(job.config.data.image_size)
    share = config.data.batch_size / job.mesh.size * FLOPS_PER_MAC
    model = share * count(job.model, (1, *grid, 3)).macs
    head = share * config.model.embedding_size * identities if identities else 0  # of others a part of the model
    generator = config.train.grad_accum_steps * FLOPS_PER_MAC * generator_macs(job.model, grid)
    counted = model + head + generator
    half = config.train.precision == "bfloat16"
    return {
        "counted_flops": counted,
        "generator_flops": generator,
        "float32_share": (generator + head) / counted if half else 1.0,
    }


def _counts(compiled: jax.stages.Compiled, target: Target | None, parts: int, fixed: int) -> dict[str, Any]:
    """Return what a compiled step takes; parameters and optimizer take ``fixed`` bytes of its arguments."""
    memory, cost, program = compiled.memory_analysis(), compiled.cost_analysis() or {}, parse(compiled.as_text())
    # XLA counts a loop's body once. Gradient accumulation is a loop over parts, with the optimizer outside.
    flops, accessed = (parts * float(cost.get(name, 0)) for name in ("flops", "bytes accessed"))
    totals = by_part(kernels(program)) if target else []
    return {
        "batch_bytes": memory.argument_size_in_bytes - fixed,
        "activation_bytes": memory.temp_size_in_bytes
        + max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        "flops": flops,
        "accessed_bytes": sum(total.size for total in totals) if target else accessed,
        "traffic": collectives(program),
        "parts": totals,
    }


def _refused(message: str, arguments: int, fixed: int) -> dict[str, Any]:
    """Return the same for a step that the compiler refuses, as far as its error says it."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed = max((float(number) * units[unit] for number, unit in _NEEDED.findall(message)), default=0)
    return {
        "batch_bytes": arguments - fixed,
        "activation_bytes": int(needed) - (0 if "temporaries" in message else arguments),
        **{"flops": 0.0, "accessed_bytes": 0.0, "traffic": [], "parts": []},
        "refusal": " ".join(message.split())[:300],
    }


def _bytes(tree: Any) -> int:
    """Return the bytes on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _compile(job: Any, state: Any, batch: Any, target: Target | None, *, accelerator: bool) -> jax.stages.Compiled:
    traced, options = job.train_step().trace(state, batch), target.options if target else None
    if target:
        lowered = traced.lower()
    else:
        # Operators may lower otherwise on accelerators (jax.lax.platform_dependent); that lowering is the one to count.
        lowered = traced.lower(lowering_platforms=("tpu" if accelerator else "cpu",))
    with working(f"compiling the step with {target.compiler}" if target else "compiling the step for a CPU"):
        return _in_thread(lambda: lowered.compile(compiler_options=options))


def _in_thread(function: Callable[[], Any]) -> Any:
    """Return what a function returns that takes minutes and holds signals; here Ctrl-C ends the wait at once."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # for the thread that waits
            future.set_exception(error)

    Thread(target=call, daemon=True).start()
    return future.result()
