"""One assembly of a training, for everything that runs its steps: train, resume, explain, bench, and the dry run."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from codecctl.config.schema import Config, TrainConfig
from codecctl.data.crops import Crops
from codecctl.model.codec import Codec
from codecctl.model.fronts import FRONTS
from codecctl.model.transformer import TransformerLayer
from codecctl.train.device import check_compiler
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.state import TrainState, start_state, step_generator
from codecctl.train.step import Adversary, StepContext
from codecctl.train.teacher import SemanticHead, Teacher

_KMEANS = 2  # a purpose of randomness, see step.py
_MAX_COMPILED = 256  # parts of one class: each width and dilation is compiled for itself


def open_crops(config: Config) -> Crops:
    """The training crops of a config. Raises `CodecctlError` if the prepared folder is not there."""
    peak = FRONTS[config.model.front.kind].peak
    return Crops(config.data.path, "train", config.crop_samples, config.train.seed, config.data, peak)


def assemble(
    config: Config, fabric: Fabric, steps_per_epoch: float = 1.0, *, load_teacher: bool = True
) -> tuple[TrainState, StepContext]:
    """The state of a new training on the device of `fabric`, and what its steps need.

    `load_teacher`: with its weights; else with random ones. Raises `CodecctlError` if the teacher cannot be loaded, or
    something is to be compiled and this machine has no compiler.
    """
    teacher = make_teacher(config, load=load_teacher)
    state = make_state(config, fabric.device, teacher, steps_per_epoch)
    return state, wrap(state, teacher, config, fabric)


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


def wrap(state: TrainState, teacher: Teacher | None, config: Config, fabric: Fabric) -> StepContext:
    """Wrap the networks and optimisers, which are on the device already, for the devices of `fabric`."""
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
    return StepContext(fabric, generator, optimizer, adversary, losses, teacher and teacher.to(fabric.device))


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
