"""Plan of a training step on devices that are not here: memory, FLOPs, traffic, and images/s at best.

``python -m tvconv_jax.main --mode=plan --config=... --devices=64 --device-kind=tpu-v5e [--identities=1000000]``
compiles the training step itself for as many devices, which XLA emulates on a CPU. It is compiled from shapes alone:
nothing is computed, no data is read.
"""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from tvconv_jax.bench.collectives import Collective, collectives
from tvconv_jax.bench.device_specs import DeviceSpec, device_spec
from tvconv_jax.metrics.complexity import count
from tvconv_jax.nn.layers import WeightGenerator
from tvconv_jax.tasks import load_task
from tvconv_jax.training.mesh import over_devices
from tvconv_jax.training.state import state_shardings
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.sizes import Size, height_width

# Forward, gradient of the inputs, gradient of the weights; a multiply and an add each.
FLOPS_PER_MAC = 3 * 2
MAX_IDENTITIES = 10**9  # labels are numbers of 32 bits
IDENTITIES, CLASSES = 10_000, 10  # where none are given
WITH_HEAD = ("face", "verification")  # tasks with class weights beside the model
TASKS = (*WITH_HEAD, "classification", "segmentation")


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
    accessed_bytes: float  # between memory and cores, as XLA counts them in the program fused for a CPU
    traffic: list[Collective]

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
            "memory": self.accessed_bytes / self.kind.bandwidth,
            "links": self.sent / links,
        }

    @property
    def images_per_second(self) -> float:
        """Images/s of all devices, if compute, memory and links overlap fully at their peaks."""
        return self.batch_size / max(self.seconds.values())

    @property
    def images_per_second_at_best(self) -> float:
        """The same with perfect fusion, which reads and writes everything in memory only once."""
        once = min(self.seconds["memory"], 2 * self.memory / self.kind.bandwidth)
        return self.batch_size / max((self.seconds | {"memory": once}).values())

    @property
    def fits(self) -> bool:
        return self.memory <= self.kind.memory

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the properties, for JSON."""
        derived = ("devices", "memory", "sent", "seconds", "images_per_second", "images_per_second_at_best", "fits")
        fields = dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}
        return fields | {"kind": self.kind._asdict(), "traffic": [one._asdict() for one in self.traffic]}


def make_plan(config: ConfigDict, *, kind: str, identities: int | None = None) -> Plan:
    """Compile the step of a face, classification or segmentation config for all devices of this process.

    Args:
        config: As :func:`tvconv_jax.tasks.configs.face_config` or
            :func:`tvconv_jax.tasks.configs.classification_config` makes it; its data is not read.
        kind: A key of :data:`tvconv_jax.bench.device_specs.KINDS`.
        identities: Classes of the head; ``None``: :data:`IDENTITIES`, or for the others ``model.num_classes`` or,
            where that is 0, :data:`CLASSES`.

    Raises:
        UserError: If the config is of another task, or does not fit the devices.
    """
    chosen, has_head = device_spec(kind), config.task in WITH_HEAD
    if identities is None:
        identities = IDENTITIES if has_head else config.model.get("num_classes") or CLASSES
    job = _make_job(config, identities)
    state, batch = _shapes(job)
    compiled = _compile(job, state, batch, accelerator=kind != "cpu")
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    parts_of = state.params if has_head else {"model": state.params}
    parameter_bytes, optimizer_bytes = _bytes(state.params), _bytes(state.opt_state)
    parts, grid = config.train.grad_accum_steps, height_width(config.data.image_size)
    share = config.data.batch_size / job.mesh.size * FLOPS_PER_MAC
    model = share * count(job.model, (1, *grid, 3)).macs
    head = share * config.model.embedding_size * identities if has_head else 0  # of others a part of the model
    generator = parts * FLOPS_PER_MAC * generator_macs(job.model, grid)
    counted = model + head + generator
    return Plan(
        kind=chosen,
        mesh=dict(job.mesh.shape),
        batch_size=config.data.batch_size,
        identities=identities,
        parameters={name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in parts_of.items()},
        parameter_bytes=parameter_bytes,
        optimizer_bytes=optimizer_bytes,
        batch_bytes=memory.argument_size_in_bytes - parameter_bytes - optimizer_bytes,
        activation_bytes=memory.temp_size_in_bytes + max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        # XLA counts a loop's body once. Gradient accumulation is a loop over parts, with the optimizer outside.
        flops=parts * float(cost["flops"]),
        counted_flops=counted,
        generator_flops=generator,
        float32_share=(generator + head) / counted if config.train.precision == "bfloat16" else 1.0,
        accessed_bytes=parts * float(cost["bytes accessed"]),
        traffic=collectives(compiled.as_text()),
    )


def generator_macs(model: nn.Module, image_size: Size) -> int:
    """Return the multiply-accumulates of all weight generators of a model in one step."""
    macs = 0

    def add(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal macs
        module = context.module
        if type(module) is WeightGenerator and context.method_name == "declare":
            height, width, channels = args[0]
            hidden, layers = module.hidden_channels, module.hidden_layers
            inputs = channels * hidden + layers * hidden * hidden + hidden * math.prod(module.features)
            macs += 9 * height * width * inputs
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *height_width(image_size), 3), jnp.float32)
    with nn.intercept_methods(add):
        jax.eval_shape(model.init, jax.random.key(0), images)
    return macs


def _make_job(config: ConfigDict, identities: int) -> Any:
    """Return the task's job for data of one step an epoch."""
    if config.task not in TASKS or "test_domain" in config.data:
        name = "odoc" if "test_domain" in config.data else config.task
        raise UserError(f"--mode=plan knows configs of the tasks {', '.join(TASKS)}; this one is of {name}.")
    if not 2 <= identities <= MAX_IDENTITIES:
        raise UserError(f"--identities={identities} must be 2 at least, and at most {MAX_IDENTITIES}.")
    config = config.copy_and_resolve_references()
    config.eval.batch_size = jax.device_count()  # evaluation is not planned
    if config.task in WITH_HEAD:
        data = SimpleNamespace(train=range(config.data.batch_size), num_classes=identities, verification={})
        return load_task("face").FaceJob(config, data)
    config.model.num_classes = identities
    train = _Images(config.data.batch_size, identities)
    if config.task == "segmentation":
        shares, names = np.full(identities, 1 / identities), tuple(map(str, range(identities)))
        classes = SimpleNamespace(names=names, foreground=[], background=None)
        found = SimpleNamespace(classes=classes, shares=shares, notes=[], of=lambda test: [])
        return load_task("segmentation").SegmentationJob(config, (found, train))
    data = SimpleNamespace(train=train, validation=None, test=train, classes=range(identities))
    return load_task("classification").ClassificationJob(config, data)


class _Images:
    """Number of images and their labels."""

    def __init__(self, count: int, classes: int) -> None:
        self.labels = np.arange(count) % classes

    def __len__(self) -> int:
        return len(self.labels)


def _shapes(job: Any) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Return state and batch as shapes, each with its sharding."""
    state = jax.eval_shape(job.init_state)
    state = jax.tree.map(_sharded, state, state_shardings(state, job.mesh))
    batch_size, grid = job.config.data.batch_size, height_width(job.config.data.image_size)
    batch = {"image": jax.ShapeDtypeStruct((batch_size, *grid, 3), jnp.uint8)}
    if job.config.task == "segmentation":
        batch["mask"] = jax.ShapeDtypeStruct((batch_size, *grid), jnp.uint8)
    else:
        batch["label"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return state, jax.tree.map(lambda leaf: _sharded(leaf, over_devices(job.mesh)), batch)


def _sharded(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _bytes(tree: Any) -> int:
    """Return the bytes on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _compile(job: Any, state: Any, batch: Any, *, accelerator: bool) -> jax.stages.Compiled:
    traced = job.train_step().trace(state, batch)
    # Operators may lower otherwise on accelerators (jax.lax.platform_dependent); that lowering is the one to count.
    return traced.lower(lowering_platforms=("tpu" if accelerator else "cpu",)).compile()
