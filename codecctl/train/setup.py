"""One assembly of a training, for everything that runs its steps: train, resume, explain, bench, and the dry run; and
checks before the first step: the losses and gradients of one batch, the loader's speed, the room on the disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor

from codecctl.config.schema import Config, TrainConfig
from codecctl.data.crops import Crops
from codecctl.data.download.disk import free_bytes
from codecctl.errors import CodecctlError
from codecctl.model.codec import Codec
from codecctl.model.fronts import FRONTS
from codecctl.model.transformer import TransformerLayer
from codecctl.train.device import cannot_compile, check_compiler, does_not_fit, sent
from codecctl.train.graphs import StepGraphs
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.state import TrainState, start_state, step_generator
from codecctl.train.step import Adversary, StepContext, at_full_weight, gradients, plan_step, zero_gradients
from codecctl.train.teacher import SemanticHead, Teacher

_KMEANS = 2  # a purpose of randomness, see step.py
_MAX_COMPILED = 256  # parts of one class: each width and dilation is compiled for itself
_N_CUT = 3  # batches, to time the loader


def open_crops(config: Config) -> Crops:
    """The training crops of a config. Raises `CodecctlError` if the prepared folder is not there."""
    peak = FRONTS[config.model.front.kind].peak
    return Crops(config.data.path, "train", config.crop_samples, config.train.seed, config.data, peak)


def assemble(
    config: Config,
    fabric: Fabric,
    steps_per_epoch: float = 1.0,
    *,
    load_teacher: bool = True,
    warn: Callable[[str], None] = warnings.warn,
) -> tuple[TrainState, StepContext]:
    """The state of a new training on the device of `fabric`, and what its steps need.

    `load_teacher`: with its weights; else with random ones. Raises `CodecctlError` if the teacher cannot be loaded, or
    something is to be compiled and this machine has no compiler. `warn`: see `wrap`.
    """
    teacher = make_teacher(config, load=load_teacher)
    state = make_state(config, fabric.device, teacher, steps_per_epoch)
    return state, wrap(state, teacher, config, fabric, warn)


def make_teacher(config: Config, *, load: bool) -> Teacher | None:
    """None if no loss needs one. `load`: with its weights; else random ones on the default device."""
    if not config.loss.semantic_weight:
        return None
    settings = config.train.semantic
    return Teacher.load(settings, config.model) if load else Teacher.without_weights(settings)


def make_state(
    config: Config, device: torch.device, teacher: Teacher | None, steps_per_epoch: float = 1.0
) -> TrainState:
    """`start_state` with a head for the teacher."""
    head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
    return start_state(config, device, head, steps_per_epoch)


def wrap(
    state: TrainState,
    teacher: Teacher | None,
    config: Config,
    fabric: Fabric,
    warn: Callable[[str], None] = warnings.warn,
) -> StepContext:
    """Wrap the networks and optimisers, which are on the device already, for the devices of `fabric`. `warn`: see
    `StepGraphs`."""
    if config.train.compile:
        compile_parts(state.codec)
    if config.train.compile or fabric.device.type == "cuda":
        check_compiler(fabric.device)
    generator, optimizer = fabric.setup(state.generator, state.optimizer, move_to_device=False)
    adversary = None
    if state.discriminators is not None and state.discriminator_optimizer is not None:
        wrapped = fabric.setup(state.discriminators, state.discriminator_optimizer, move_to_device=False)
        adversary = Adversary(state.discriminators, *wrapped)
    losses = ReconstructionLosses(config.loss, config.model.sample_rate, config.model.hop_length).to(fabric.device)
    graphs = None
    if config.train.cuda_graphs and isinstance(fabric.strategy, SingleDeviceStrategy) and fabric.device.type == "cuda":
        graphs = StepGraphs(warn)
    return StepContext(fabric, generator, optimizer, adversary, losses, teacher and teacher.to(fabric.device), graphs)


def compile_parts(codec: Codec) -> None:
    """Compile each unit of the front and each transformer layer in place, when it is first called.

    Never whole networks: torch has faults in the backward pass of weight-normed `Conv2d` above 64 channels
    (pytorch#165749) and in padding before an STFT (pytorch#179807).
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_COMPILED)
    compiled = (*FRONTS[codec.config.front.kind].compiled, TransformerLayer)
    for module in codec.modules():
        if isinstance(module, compiled):
            module.compile(dynamic=False)  # crops have one length


def fit_codebooks(state: TrainState, config: Config, crops: Crops, fabric: Fabric) -> None:
    """Fit the front's scales, and the codebooks by k-means on latents of crops; all ranks get those of the first."""
    n_frames = config.train.kmeans_vectors
    n_crops = -(-n_frames * config.model.hop_length // crops.crop_samples)
    audio = crops.batch(0, n_crops).to(state.device)
    state.codec.fit_front(audio)
    # Compiled parts would be compiled again for these shapes.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        batches = torch.split(audio, config.train.batch_size)
        latents = torch.cat([state.codec.encode_latents(batch).mT.flatten(0, 1) for batch in batches])  # [B x T, D]
    state.codec.quantizer.fit(latents[:n_frames], step_generator(config.train.seed, 0, _KMEANS))
    weights = fabric.broadcast(state.codec.state_dict())
    state.codec.load_state_dict(weights)
    state.ema.load_state_dict(weights)


def checkpoint_bytes(state: TrainState) -> int:
    """Of a checkpoint with both moments of all that learns."""
    kept: int = sum(tensor.nbytes for module in state.modules for tensor in module.state_dict().values())
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    moments: int = 2 * sum(parameter.nbytes for group in groups for parameter in group["params"])
    return kept + moments


def n_files(settings: TrainConfig) -> int:
    """Checkpoints that are on the disk at once: the newest, the best, and one that is being written."""
    return settings.keep_checkpoints + 2


def preflight(state: TrainState, context: StepContext, config: Config, crops: Crops, folder: Path) -> dict[str, str]:
    """The findings, in words, by subject. Changes neither `state` nor any randomness, and writes nothing.

    Raises `CodecctlError`, on all ranks, if the losses or gradients of a batch are not finite, a card's memory does not
    hold it, or the disk of `folder` has no room for the checkpoints.
    """
    disk = _room(state, config, folder, context)
    n_crops, fabric, start = config.train.n_crops, context.fabric, time.perf_counter()
    cut = [crops.batch(state.step + i, n_crops, fabric.global_rank, fabric.world_size) for i in range(_N_CUT)]
    cut_seconds = (time.perf_counter() - start) / _N_CUT  # that one thread takes for this rank's crops of a step
    batch, step_seconds = _one_batch(state, context, config, cut[0])
    return {"first batch": batch, "loader": _loader(cut_seconds, step_seconds, config.data.n_workers), "disk": disk}


def _room(state: TrainState, config: Config, folder: Path, context: StepContext) -> str:
    """Measured by the first rank for all."""
    size = checkpoint_bytes(state)
    wanted = size * n_files(config.train)
    there = sum(path.stat().st_size for path in folder.glob("*.pt"))
    free: int = context.fabric.broadcast(free_bytes(folder))
    need: int = context.fabric.broadcast(max(0, wanted - there))
    words = (
        f"{n_files(config.train)} checkpoints of {size / 1e6:,.1f} MB need {need / 1e6:,.1f} MB more, "
        f"{free / 1e6:,.1f} MB are free"
    )
    if free < need:
        raise CodecctlError(f"{folder}: {words}; make room, or name a folder on another disk with --run")
    return words


def _one_batch(state: TrainState, context: StepContext, config: Config, audio: Tensor) -> tuple[str, float]:
    """The losses of one batch, all that the config has, and the seconds that its gradients took."""
    batches = [sent(part, context.fabric.device) for part in audio.chunk(config.train.accumulate)]
    start = time.perf_counter()
    try:
        plan = plan_step(at_full_weight(state, config), batches, context, config)
        _, result = gradients(plan, batches, context, config)
        losses = {name: float(value) for name, value in result.losses.items()}
    except torch.OutOfMemoryError:
        raise does_not_fit(config) from None
    except torch._dynamo.exc.TorchDynamoException as error:  # only where something is compiled
        raise cannot_compile(error) from None
    seconds = time.perf_counter() - start
    zero_gradients(context)
    words = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
    if result.skipped:
        raise CodecctlError(f"step {state.step + 1}: the gradient of its batch is not finite ({words}); check the data")
    teacher = "teacher there, " if context.teacher is not None else ""
    return f"{teacher}all finite: {words}", seconds


def _loader(cut_seconds: float, step_seconds: float, n_workers: int) -> str:
    """Whether the loader keeps up."""
    words = f"a batch takes {cut_seconds:.3f} s to cut and {step_seconds:.2f} s to learn from"
    if n_workers == 0:
        return f"{words}, one after the other: data.n_workers=0"
    slow = cut_seconds / n_workers > step_seconds
    return f"{words}: data.n_workers={n_workers} {'is too few; raise it, or use a faster disk' if slow else 'keeps up'}"
