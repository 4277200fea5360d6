"""The ranks of a run as forks of a process that has imported everything and computed nothing: they take no start-up."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

import torch


def fork_ranks(work: Callable[[int], None], n_ranks: int, *, srun: bool = False) -> list[int]:
    """Process numbers; each does `work(rank)` and exits with 0, or with 1 after an exception. Their environment is
    that of torchrun or of srun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n_ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            torch.set_num_threads(1)
            if n_ranks > 1:
                os.environ.update(_srun(rank, n_ranks) if srun else _torchrun(rank, n_ranks))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            work(rank)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return children


def _torchrun(rank: int, n_ranks: int) -> dict[str, str]:
    here = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    return {
        "TORCHELASTIC_RUN_ID": "test",
        **{name: str(number) for name, number in here.items()},
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(n_ranks)),
    }


def _srun(rank: int, n_ranks: int) -> dict[str, str]:
    here = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0}
    job = {"SLURM_JOB_ID": 4711, "SLURM_STEP_ID": 0, "SLURM_NNODES": 1, "SLURM_NTASKS": n_ranks}
    return {"SLURM_JOB_NAME": "training", **{name: str(number) for name, number in (here | job).items()}}
