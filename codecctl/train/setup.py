"""One assembly of a training, for everything that runs its steps: train, resume, explain, bench, and the dry run."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.single_device import SingleDeviceStrategy

from codecctl.config.schema import Config, TrainConfig
from codecctl.data import SAMPLE_RATE
from codecctl.data.crops import Crops
from codecctl.errors import ConfigError
from codecctl.model.codec import FRONTS, Codec
from codecctl.model.transformer import TransformerLayer
from codecctl.train.device import check_compiler
from codecctl.train.discriminators import Discriminators
from codecctl.train.graphs import StepGraphs
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.state import TrainState, make_optimizer, step_generator
from codecctl.train.step import Adversary, StepContext
from codecctl.train.teacher import Generator, SemanticHead, Teacher

_NEVER = 2**62  # steps
_KMEANS = 2  # a purpose of randomness, see step.py
_MAX_COMPILED = 256  # parts of one class: each width and dilation is compiled for itself


def open_crops(config: Config) -> Crops:
    """The training crops of a config. Raises `CodecctlError` if the prepared folder is not there, `ConfigError` if the
    codec has another sample rate."""
    if config.model.sample_rate != SAMPLE_RATE:
        wrong = f"{config.model.sample_rate}, but prepared audio has {SAMPLE_RATE} Hz"
        raise ConfigError(f"model.sample_rate: {wrong}; set it to {SAMPLE_RATE}")
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
    state = start_state(config, fabric.device, teacher, steps_per_epoch)
    return state, wrap(state, teacher, config, fabric, warn)


def make_teacher(config: Config, *, load: bool) -> Teacher | None:
    """None if no loss needs one. `load`: with its weights; else random ones on the default device."""
    if not config.loss.semantic_weight:
        return None
    settings = config.train.semantic
    return Teacher.load(settings, config.model) if load else Teacher.without_weights(settings)


def start_state(
    config: Config, device: torch.device, teacher: Teacher | None = None, steps_per_epoch: float = math.inf
) -> TrainState:
    """New networks, drawn from the seed, on `device`. `steps_per_epoch` determines `adversarial_step`."""
    settings = config.train
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same start on every device
        torch.manual_seed(settings.seed)
        codec = Codec(config.model)
        discriminators = Discriminators(settings.adversarial) if config.loss.is_adversarial else None
        semantic_head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
    for part in settings.freeze:
        getattr(codec, part).requires_grad_(False)
    generator = Generator(codec, semantic_head).to(device).train()
    optimizer = make_optimizer(generator, settings, settings.learning_rate)
    discriminator_optimizer = None
    if discriminators is not None:
        discriminators.to(device).train()
        discriminator_optimizer = make_optimizer(discriminators, settings, settings.adversarial.learning_rate)
    start = settings.adversarial.start_epoch * steps_per_epoch if discriminators is not None else math.inf
    ema = copy.deepcopy(codec).requires_grad_(False).eval()
    sizes = config.model.quantizer.codebook_sizes
    return TrainState(
        codec,
        semantic_head,
        ema,
        optimizer,
        discriminators,
        discriminator_optimizer,
        adversarial_step=round(min(start, _NEVER)),
        n_alarms=[0] * len(sizes),
        code_counts=[torch.zeros(size, dtype=torch.int64) for size in sizes],
    )


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
    if fabric.device.type == "cuda":
        from codecctl.train.snake_kernels import use_snake_kernels  # triton is there with CUDA only

        use_snake_kernels()
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
