"""What a training step needs on devices that are not here: memory, products, traffic, and images/s at best.

``python -m tvconv_jax.main --mode=plan --config=... --devices=64 --kind=tpu-v5e [--identities=1000000]`` compiles the
very step that training would run, for as many devices that XLA's CPU plays, from shapes alone: nothing is computed,
no data is read.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from tvconv_jax.bench.collectives import Collective, collectives
from tvconv_jax.bench.device_specs import DeviceSpec, device_spec
from tvconv_jax.data.faces import FaceData
from tvconv_jax.metrics.complexity import count
from tvconv_jax.nn.layers import WeightGenerator
from tvconv_jax.tasks.face import FaceJob
from tvconv_jax.training.mesh import over_devices
from tvconv_jax.training.state import state_shardings
from tvconv_jax.utils.errors import UserError

# Forward, gradient of the inputs, gradient of the weights; a multiply and an add each.
FLOPS_PER_MAC = 3 * 2
MAX_IDENTITIES = 10**9  # labels are numbers of 32 bits


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training step on devices of a kind. Bytes, FLOPs and seconds are those of a step on one device.

    Attributes:
        kind: Of the devices.
        mesh: Devices along each axis.
        batch_size: Pictures in a step, on all devices together.
        identities: Columns of the head.
        parameters: Numbers that training changes: of the model, of the head, in all, once.
        parameter_bytes: Of them on a device.
        optimizer_bytes: What the optimizer keeps.
        batch_bytes: Pictures and labels, running statistics and the rest that goes in.
        activation_bytes: Temporaries of the program: activations, gradients, what collectives need.
        flops: As XLA counts them in the program.
        counted_flops: Products alone, as ``tvconv_jax.metrics.complexity`` counts them.
        generator_flops: Of those, what makes TVConv's kernels: the same on every device, however many there are.
        float32_share: Of those, the share computed in float32; less than 1 with ``train.precision=bfloat16``.
        accessed_bytes: Between memory and cores, as XLA counts them in the program fused for a CPU.
        traffic: What collectives there are.
    """

    kind: DeviceSpec
    mesh: dict[str, int]
    batch_size: int
    identities: int
    parameters: dict[str, int]
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    activation_bytes: int
    flops: float
    counted_flops: float
    generator_flops: float
    float32_share: float
    accessed_bytes: float
    traffic: list[Collective]

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def memory(self) -> int:
        """Bytes that a device holds at once: the state is changed in place."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.activation_bytes

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(one.sent for one in self.traffic)

    @property
    def seconds(self) -> dict[str, float]:
        """What compute, memory and links take at their peaks."""
        links = self.kind.near_links if self.devices <= self.kind.near else self.kind.far_links
        per_flop = self.float32_share / self.kind.float32 + (1 - self.float32_share) / self.kind.bfloat16
        return {
            "compute": max(self.flops, self.counted_flops) * per_flop,
            "memory": self.accessed_bytes / self.kind.bandwidth,
            "links": self.sent / links,
        }

    @property
    def images_per_second(self) -> float:
        """Of all devices, if all is at its peak and each hides behind the slowest."""
        return self.batch_size / max(self.seconds.values())

    @property
    def images_per_second_at_best(self) -> float:
        """The same if the device's compiler fused so well that all that is held is written and read only once."""
        once = min(self.seconds["memory"], 2 * self.memory / self.kind.bandwidth)
        return self.batch_size / max((self.seconds | {"memory": once}).values())

    @property
    def fits(self) -> bool:
        return self.memory <= self.kind.memory

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields and what follows from them."""
        derived = ("devices", "memory", "sent", "seconds", "images_per_second", "images_per_second_at_best", "fits")
        fields = dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}
        return fields | {"kind": self.kind._asdict(), "traffic": [one._asdict() for one in self.traffic]}


class _NoPictures:
    """As long as a batch, so that an epoch has a step."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def make_plan(config: ConfigDict, *, kind: str, identities: int) -> Plan:
    """Compiles the step of a face config for all devices of this process.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.face_config` makes it; its data is not looked at.
        kind: A key of :data:`tvconv_jax.bench.device_specs.KINDS`.
        identities: Columns of the head.

    Raises:
        UserError: If the config is of another task, or does not fit the devices.
    """
    chosen = device_spec(kind)
    if config.task != "face":
        raise UserError(f"--mode=plan knows configs of the task face only; this one is of the task {config.task}.")
    if not 2 <= identities <= MAX_IDENTITIES:
        raise UserError(f"--identities={identities} must be 2 at least, and at most {MAX_IDENTITIES}.")
    config = config.copy_and_resolve_references()
    config.eval.batch_size = jax.device_count()  # evaluation is not planned
    data = FaceData(_NoPictures(config.data.batch_size), identities, {}, "", [])
    job = FaceJob(config, data)
    state, batch = _shapes(job, config)
    compiled = _compile(job, state, batch, accelerator=kind != "cpu")
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    parameter_bytes, optimizer_bytes = _bytes(state.params), _bytes(state.opt_state)
    parts, side = config.train.grad_accum_steps, config.data.image_size
    share = config.data.batch_size / job.mesh.size * FLOPS_PER_MAC
    model = share * count(job.model, (1, side, side, 3)).macs
    head = share * config.model.embedding_size * identities
    generator = parts * FLOPS_PER_MAC * generator_macs(job.model, side)
    counted = model + head + generator
    return Plan(
        kind=chosen,
        mesh=dict(job.mesh.shape),
        batch_size=config.data.batch_size,
        identities=identities,
        parameters={name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in state.params.items()},
        parameter_bytes=parameter_bytes,
        optimizer_bytes=optimizer_bytes,
        batch_bytes=memory.argument_size_in_bytes - parameter_bytes - optimizer_bytes,
        activation_bytes=memory.temp_size_in_bytes + max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        # XLA counts a loop's body once: the parts of train.grad_accum_steps are a loop, the optimizer is outside it.
        flops=parts * float(cost["flops"]),
        counted_flops=counted,
        generator_flops=generator,
        float32_share=(generator + head) / counted if config.train.precision == "bfloat16" else 1.0,
        accessed_bytes=parts * float(cost["bytes accessed"]),
        traffic=collectives(compiled.as_text()),
    )


def generator_macs(model: nn.Module, side: int) -> int:
    """Multiply-accumulates that make the kernels of every TVConv of a model, once a step."""
    macs = 0

    def add(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        module = context.module
        if type(module) is WeightGenerator and context.method_name == "__call__":
            height, width, channels = args[0].shape
            hidden, layers = module.hidden_channels, module.hidden_layers
            inputs = channels * hidden + layers * hidden * hidden + hidden * math.prod(module.features)
            macs += 9 * height * width * inputs
        return call(*args, **kwargs)

    with nn.intercept_methods(add):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    return macs


def _shapes(job: FaceJob, config: ConfigDict) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """State and batch as shapes, each with its place on the mesh."""
    state = jax.eval_shape(job.init_state)
    state = jax.tree.map(_placed, state, state_shardings(state, job.mesh))
    size, side = config.data.batch_size, config.data.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    return state, jax.tree.map(lambda leaf: _placed(leaf, over_devices(job.mesh)), batch)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _bytes(tree: Any) -> int:
    """On one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _compile(job: FaceJob, state: Any, batch: Any, *, accelerator: bool) -> jax.stages.Compiled:
    traced = job.train_step().trace(state, batch)
    # What the operators do on accelerators and not on a CPU (jax.lax.platform_dependent) is what counts here.
    return traced.lower(lowering_platforms=("tpu" if accelerator else "cpu",)).compile()
