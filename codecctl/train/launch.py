"""The processes of a training: who starts them, what they share, and that they end together with one message."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor
from torch import distributed as dist

from codecctl.errors import CodecctlError, Interrupted, ReportedElsewhere, UsageError

if TYPE_CHECKING:
    from codecctl.train.state import TrainState

_OURS = "CODECCTL_ERRORS"  # where the processes that `start_ranks` started write their errors
_SAVE_SECONDS = 600  # that they have after a signal to finish a step and save, before they are killed
_LONGEST_VALIDATION = timedelta(hours=24)  # for which all but the first process wait
_ASKING_SECONDS = 3  # that the first process keeps the store alive, so that others can ask who reports the error
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")  # in the errors of a lost connection


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and who numbers them."""

    n_devices: int  # processes on each machine
    n_nodes: int  # machines
    environment: ClusterEnvironment

    @property
    def n_ranks(self) -> int:
        return self.n_devices * self.n_nodes

    @property
    def are_started(self) -> bool:
        return self.n_ranks == 1 or self.environment.creates_processes_externally


def count_ranks(n_devices: int = 1, n_nodes: int = 1) -> Ranks:
    """The processes that the command asks for; under torchrun or SLURM those that they have started.

    Raises `UsageError` if the command asks for another number than they started, or for several machines without the
    address of the first.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return Ranks(per_node, int(os.environ["WORLD_SIZE"]) // per_node, TorchElasticEnvironment())
    n_tasks = int(os.environ.get("SLURM_NTASKS", 1))
    # A batch script has SLURM_NTASKS, too, but no such processes are started yet: only srun numbers its steps.
    if n_tasks > 1 and "SLURM_STEP_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        if n_devices not in (1, n_tasks // nodes) or n_nodes not in (1, nodes):
            raise UsageError(
                f"--devices {n_devices} --nodes {n_nodes}: srun started {n_tasks // nodes} processes on each of "
                f"{nodes} machines; leave both options out or ask srun for --nodes={n_nodes} "
                f"--ntasks-per-node={n_devices}"
            )
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(n_tasks // nodes))  # Fabric asks for it
        return Ranks(n_tasks // nodes, nodes, SLURMEnvironment(auto_requeue=False))
    if n_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise UsageError(
            f"--nodes {n_nodes}: start the command with torchrun or srun, or set MASTER_ADDR, MASTER_PORT and "
            "NODE_RANK on each machine"
        )
    return Ranks(n_devices, n_nodes, LightningEnvironment())


def start_ranks(ranks: Ranks, folder: Path) -> None:
    """Run this command once on each device by torchrun's launcher; returns when all have ended.

    Signals are passed on. When a process fails, all end; raises its error, `Interrupted` after a signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    specification = sys.modules["__main__"].__spec__
    program = ["-m", specification.name] if specification else [os.path.abspath(sys.argv[0])]
    with tempfile.TemporaryDirectory() as errors:
        os.environ |= {_OURS: errors, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SAVE_SECONDS)}
        config = LaunchConfig(
            min_nodes=ranks.n_nodes,
            max_nodes=ranks.n_nodes,
            nproc_per_node=ranks.n_devices,
            run_id="codecctl",
            max_restarts=0,
            **_rendezvous(ranks),
        )
        code = 0
        logging.disable(logging.ERROR)  # the launcher logs every signal and exit code
        try:
            elastic_launch(config, sys.executable)(*program, *sys.argv[1:])
        except SignalException as stop:
            code = 128 + stop.sigval
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            code = failure.exitcode
            if code < 0:
                what = f"process {rank} was killed ({signal.Signals(-code).name})"
                raise CodecctlError(_lost(folder, what)) from None
        finally:
            logging.disable(logging.NOTSET)
        _raise_first(Path(errors), code)


@contextmanager
def reporting(ranks: Ranks, folder: Path) -> Iterator[None]:
    """Within, in each process of a run: of an error that several have, one raises it, the others `ReportedElsewhere`.

    A process that has lost the connection to another raises that one is gone.
    """
    if _OURS in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: save and end if the launcher is killed
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if ranks.n_ranks == 1:
            raise
        rank = dist.get_rank() if dist.is_initialized() else 0
        code = error.exit_code if isinstance(error, CodecctlError) else 1
        # Whether this process failed because it could not communicate with another.
        lost = isinstance(error, dist.DistError)
        lost |= isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)
        if _OURS in os.environ:
            if isinstance(error, KeyboardInterrupt):
                code = 128 + signal.SIGINT
            elif isinstance(error, CodecctlError):
                _report(rank, time.time(), str(error), code)
            elif lost:  # another process knows better, if any reports
                _report(rank, math.inf, _lost(folder, "the processes have lost each other"), code)
            else:
                raise
            raise ReportedElsewhere(code) from None
        if lost and rank:
            time.sleep(1)  # the first process knows better how the others died
        if not (rank == 0 if isinstance(error, Interrupted) else _is_first(folder)):
            raise ReportedElsewhere(code) from None
        if lost:
            raise CodecctlError(_lost(folder, "another process of the run is gone")) from None
        raise


def _report(rank: int, seconds: float, message: str, code: int) -> None:
    """To the launcher, which raises the error of the least `seconds`."""
    report = json.dumps({"time": seconds, "message": message, "code": code})
    (Path(os.environ[_OURS]) / f"{rank}.json").write_text(report, encoding="utf-8")


def _rendezvous(ranks: Ranks) -> dict[str, Any]:
    """How the machines of a run find each other."""
    if ranks.n_nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    endpoint = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": endpoint,
        "rdzv_configs": {"rank": int(os.environ["NODE_RANK"])},
    }


def _raise_first(errors: Path, code: int) -> None:
    """Raises the first error that a process has written; without one, what the exit code `code` stands for."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in errors.glob("*.json")]
    if code > 128:  # a signal: that processes have lost each other follows from it
        reports = [report for report in reports if report["time"] != math.inf]
    if reports:
        first = min(reports, key=lambda report: report["time"])
        if first["code"] > 128:
            raise Interrupted(first["message"], first["code"] - 128)
        raise (UsageError if first["code"] == UsageError.exit_code else CodecctlError)(first["message"])
    if code > 128:
        raise Interrupted("interrupted before the first step; nothing was saved", code - 128)
    if code:
        raise ReportedElsewhere(code)


def _lost(folder: Path, what: str) -> str:
    return f"{folder}: {what}: all processes stop; `codecctl resume {folder}` goes on from the last checkpoint"


def _is_first(folder: Path) -> bool:
    """Whether this process is the first of the run to report how it ends. To be asked once."""
    try:
        store, key = dist.distributed_c10d._get_default_store(), f"reported {folder}"
        is_first = int(store.add(key, 1)) == 1
        if dist.get_rank() == 0:  # it may host the store, and the others have yet to ask
            until = time.monotonic() + _ASKING_SECONDS
            while int(store.add(key, 0)) < dist.get_world_size() and time.monotonic() < until:
                time.sleep(0.02)
        return is_first
    except Exception:  # not connected yet, or the process that hosts the store is gone
        return True


def largest(fabric: Fabric, value: int) -> int:
    """The largest `value` of all ranks: the same everywhere, and so is what is decided by it. No rank waits for its
    device: hosts exchange the value."""
    if fabric.world_size == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=_hosts(dist.group.WORLD))
    return int(shared)


def meet(fabric: Fabric) -> None:
    """Wait until all ranks are here, for hours if need be: a collective of cards gives up after half an hour, and would
    end the run while the first rank validates."""
    largest(fabric, 0)


def largest_on_device(fabric: Fabric, value: Tensor) -> Tensor:
    """The largest `value` [] of all ranks, which stays on the device."""
    return value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="max"))


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
    """A gloo group of the same processes. It sees at once when one of them ends."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_LONGEST_VALIDATION))


def _digest(state: TrainState) -> int:
    """63 bits of the step and all that is in the codebooks."""
    digest = hashlib.blake2b(str(state.step).encode(), digest_size=8)
    for value in state.codec.quantizer.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1
