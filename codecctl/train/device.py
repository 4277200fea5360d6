"""The device of a training: the card of a profile, several cards or machines, CUDA's settings."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from codecctl.config.schema import Config, GpuConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.device import find_device
from codecctl.train.launch import count_ranks

if TYPE_CHECKING:
    from codecctl.evaluate.codebooks import CodebookCounter

_USABLE = 0.9  # drivers report a little less than the nominal memory
_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def training_device(name: str, config: Config) -> torch.device:
    """The device `name` (auto, cpu, cuda, cuda:N). Raises `UsageError` if it, or the card of `train.gpu`, is not there.

    `cpu`: the profile's batch size and precision are used without its card.
    """
    card = config.train.gpu
    device = find_device(name)
    if card is None or name == "cpu":
        return device
    wanted = f"{card.name} with {card.memory_gb:g} GB"
    if device.type != "cuda":
        raise UsageError(f"no {wanted} here: this machine has no CUDA card; --device cpu goes on without one")
    found = torch.cuda.get_device_properties(device)
    if not is_card(card, found.name, found.total_memory):
        memory = found.total_memory / 1e9
        raise UsageError(
            f"no {wanted} here: {device} is a {found.name} with {memory:.0f} GB; choose its profile with --gpu, "
            f"leave --gpu out, give --device cpu, or, where its memory is enough, --set 'train.gpu.name={found.name}'"
        )
    return device


def is_card(card: GpuConfig, driver_name: str, n_bytes: int) -> bool:
    """Whether a card with that memory is the one of a profile. A larger card of another name is not: the profile's
    speeds and price would be wrong for it."""
    return card.name in driver_name and n_bytes >= _USABLE * card.memory_gb * 1e9


def make_fabric(config: Config, device: torch.device, n_devices: int = 1, n_nodes: int = 1) -> Fabric:
    """The launched `Fabric`: one process a device. Under torchrun or SLURM the numbers are theirs.

    Raises `UsageError` for more cards than the machine has.
    """
    ranks = count_ranks(n_devices, n_nodes)
    several = ranks.n_ranks > 1
    if device.type == "cuda":
        # TF32, unless most products are in bfloat16 anyway: those that are left, of transforms and of the codebook
        # search, are few and are float32 for a reason.
        torch.set_float32_matmul_precision("high" if config.train.precision == "float32" else "highest")
        torch.backends.cudnn.benchmark = True  # crops have one length
        if several and ranks.n_devices > torch.cuda.device_count():
            raise UsageError(f"--devices {ranks.n_devices}: this machine has {torch.cuda.device_count()} CUDA cards")
    which = [device.index] if device.type == "cuda" and device.index is not None and not several else ranks.n_devices
    strategy = several_ranks() if several else "auto"
    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a banner for each process
    fabric = Fabric(
        accelerator=device.type,
        strategy=strategy,
        devices=which,
        num_nodes=ranks.n_nodes,
        precision=_PRECISION[config.train.precision],  # type: ignore[arg-type]
        plugins=[ranks.environment],
    )
    fabric.launch()
    if several:
        atexit.register(_disconnect)
    return fabric


def _disconnect() -> None:
    """Before the interpreter ends: threads of gloo that are still there abort the process, sometimes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def several_ranks(backend: str | None = None) -> DDPStrategy:
    """One model over all ranks. Buffers are kept equal by the quantizer itself, whose sums are taken over all ranks."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters  # older torch has the other name
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    own_buffers: dict[str, Any] = {name: False}
    return DDPStrategy(process_group_backend=backend, **own_buffers)


@contextmanager
def for_any_length() -> Iterator[None]:
    """Within: cuDNN does not time its kernels for each new length, which pays for crops alone."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check_compiler(device: torch.device) -> None:
    """Raises `CodecctlError` unless this machine can compile kernels for the device."""
    language, variable, names = ("C", "CC", ("gcc", "clang")) if device.type == "cuda" else ("C++", "CXX", ("g++",))
    if shutil.which(os.environ.get(variable) or "") is None and not any(map(shutil.which, names)):
        raise CodecctlError(
            f"no {language} compiler here, which torch.compile needs: install {' or '.join(names)}, or set {variable}"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise CodecctlError(f"{header} is missing, which torch.compile needs: install this Python's headers")
    if device.type == "cuda" and find_spec("triton") is None:
        raise CodecctlError("triton is missing, which training on CUDA needs: install it (pip install triton)")


def cannot_compile(error: Exception) -> CodecctlError:
    """The error for a compiler that is there and does not work."""
    reason = str(error).strip().splitlines()[0]
    return CodecctlError(f"torch.compile fails: {reason}; mend the compiler, or give --set train.compile=false")


def does_not_fit(config: Config) -> CodecctlError:
    """The error for a batch that is too large for the card's memory."""
    return CodecctlError(
        f"train.batch_size: {config.train.batch_size} crops of {config.data.crop_seconds:g} s do not fit into this "
        "card; `codecctl train --dry-run` with the same options shows what does"
    )


def pinned(audio: Tensor, device: torch.device) -> Tensor:
    """Audio in pinned memory, if the device is a CUDA card: it can copy it while it computes."""
    return audio.pin_memory() if device.type == "cuda" else audio


def sent(audio: Tensor, device: torch.device) -> Tensor:
    """Pinned audio on the device; the CPU does not wait for it."""
    return audio.to(device, non_blocking=True)


def sum_counts(fabric: Fabric, counter: CodebookCounter) -> list[Tensor]:
    """[V] of each codebook, on the CPU: how often its codewords were chosen on all ranks."""
    mine = torch.from_numpy(np.concatenate(counter.counts)).to(fabric.device)
    total = cast(Tensor, fabric.all_reduce(mine, reduce_op="sum")).cpu()
    return list(torch.split(total, list(counter.codebook_sizes)))
