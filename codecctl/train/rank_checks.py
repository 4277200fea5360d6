"""What the processes of a run must have in common: decisions, codebooks, the folder of the run."""

from __future__ import annotations

import hashlib
import socket
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch import distributed as dist

from codecctl.errors import CodecctlError
from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.train.state import TrainState


def largest(fabric: Fabric, value: int) -> int:
    """The largest `value` of all ranks: the same everywhere, and so is what is decided by it. No rank waits for its
    device: hosts exchange the value."""
    if fabric.world_size == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=_hosts(dist.group.WORLD))
    return int(shared)


def largest_on_device(fabric: Fabric, value: Tensor) -> Tensor:
    """The largest `value` [] of all ranks, which stays on the device."""
    return value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="max"))


def sum_counts(fabric: Fabric, counter: CodebookCounter) -> list[Tensor]:
    """[V] of each codebook, on the CPU: how often its codewords were chosen on all ranks."""
    mine = torch.from_numpy(np.concatenate(counter.counts)).to(fabric.device)
    total = cast(Tensor, fabric.all_reduce(mine, reduce_op="sum")).cpu()
    return list(torch.split(total, list(counter.codebook_sizes)))


def check_same_codebooks(fabric: Fabric, state: TrainState, folder: Path) -> None:
    """Raises `CodecctlError`, on all ranks, unless all are at one step with one set of codebooks."""
    if fabric.world_size == 1:
        return
    mine = torch.tensor([_digest(state)], device=fabric.device)
    everyone = [torch.empty_like(mine) for _ in range(fabric.world_size)]
    dist.all_gather(everyone, mine)
    digests = [int(digest) for digest in everyone]
    others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise CodecctlError(
            f"{folder}: at step {state.step} the codebooks of process {', '.join(others)} are not those of process 0: "
            f"nothing saved; `codecctl resume {folder}` goes on from the last checkpoint"
        )


def check_shared(fabric: Fabric, path: Path) -> None:
    """Raises `CodecctlError` where a rank does not see the file of the first one: it could not roll back."""
    fabric.barrier()
    if not path.exists():
        raise CodecctlError(
            f"{path}: process {fabric.global_rank} on {socket.gethostname()} does not see it; --run must name a folder "
            "that all machines share"
        )


@cache
def _hosts(everyone: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """A gloo group of the same processes."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo"))


def _digest(state: TrainState) -> int:
    """63 bits of the step and all that is in the codebooks."""
    digest = hashlib.blake2b(str(state.step).encode(), digest_size=8)
    for value in state.codec.quantizer.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1
