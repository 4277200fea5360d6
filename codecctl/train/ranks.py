"""The processes of one training: who starts them, how many there are, and that they end together with one message."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed as dist

from codecctl.errors import CodecctlError, Interrupted, ReportedElsewhere, UsageError

_PARENT = "CODECCTL_PARENT"  # a pipe that closes when the process dies which started this one
_GRACE_SECONDS = 5.0  # to end in good order once a process of the run is gone
_ASKING_SECONDS = 3  # that the first process stays for the others to hear whether the end has been told
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")  # in the errors of a lost connection


@dataclass(frozen=True)
class Ranks:
    """The processes of a run. `environment` is Fabric's word for who counts them."""

    n_devices: int  # processes on each machine
    n_nodes: int  # machines
    environment: ClusterEnvironment

    @property
    def n_ranks(self) -> int:
        return self.n_devices * self.n_nodes


def count_ranks(n_devices: int = 1, n_nodes: int = 1) -> Ranks:
    """What the command asks for, unless torchrun or SLURM has started the processes: then theirs count.

    Raises `UsageError` if the command asks for another number than they started, or for machines without saying where.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return Ranks(per_node, int(os.environ["WORLD_SIZE"]) // per_node, TorchElasticEnvironment())
    n_tasks = int(os.environ.get("SLURM_NTASKS", 1))
    # Within a batch script SLURM_NTASKS is set as well, but nobody has started that many: srun alone numbers its steps.
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


@contextmanager
def together(ranks: Ranks, folder: Path, failed: Callable[[str], None]) -> Iterator[None]:
    """The processes of a run, started here if nobody else did: within, when one fails or dies, all end.

    One of them raises what went wrong, the others `ReportedElsewhere`. `failed` is told in place of an exception when
    this process hangs in a call to one that died; then it ends.
    """
    if ranks.n_ranks == 1:
        yield
        return
    children = _start(ranks)
    leaving = threading.Event()
    if children:
        _in_background(lambda: _watch_children(children, folder, failed, leaving))
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        leaving.set()
        lost = _is_lost(error)
        if lost and dist.is_initialized() and dist.get_rank():
            time.sleep(1)  # the first process knows better how the others died
        if isinstance(error, Interrupted):  # all of them raise it, after the same step
            may_tell = not (dist.is_initialized() and dist.get_rank())
            _wait_for(children)
        else:
            may_tell = _may_tell(folder)
            _do_not_hang_at_exit()
        if not may_tell:
            raise ReportedElsewhere(error.exit_code if isinstance(error, CodecctlError) else 1) from None
        if lost:
            raise CodecctlError(_death(children, folder)) from None
        raise
    finally:
        if children:
            del os.environ["LOCAL_RANK"]
    leaving.set()
    _wait_for(children)


def _start(ranks: Ranks) -> list[subprocess.Popen[bytes]]:
    """This command once more for each further device, as Fabric's own launcher does it, but on a leash."""
    if _PARENT in os.environ:
        _in_background(lambda: _leave_with_parent(int(os.environ[_PARENT])))
    if ranks.environment.creates_processes_externally:
        return []
    os.environ.update(LOCAL_RANK="0")  # now Fabric takes the processes for started
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    specification = sys.modules["__main__"].__spec__
    program = ["-m", specification.name] if specification else [os.path.abspath(sys.argv[0])]
    reader, _ = os.pipe()  # the end to write into stays open as long as this process lives
    return [
        subprocess.Popen(
            [sys.executable, *program, *sys.argv[1:]],
            env={**os.environ, "LOCAL_RANK": str(rank), _PARENT: str(reader)},
            pass_fds=(reader,),
        )
        for rank in range(1, ranks.n_devices)
    ]


def _wait_for(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=2 * _GRACE_SECONDS)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _do_not_hang_at_exit() -> None:
    """A library may wait, while the interpreter ends, for processes that are gone."""
    ending = threading.Event()
    atexit.register(ending.set)
    _in_background(lambda: _exit_after(_GRACE_SECONDS) if ending.wait() else None)


def _leave_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the last who could write is gone
    _exit_after(_GRACE_SECONDS / 2)


def _exit_after(seconds: float) -> None:
    """At once and without clearing up: the main thread may hang in a library."""
    time.sleep(seconds)
    os._exit(1)


def _watch_children(
    children: Sequence[subprocess.Popen[bytes]], folder: Path, failed: Callable[[str], None], leaving: threading.Event
) -> None:
    while not leaving.wait(0.2):
        codes = [child.poll() for child in children]
        if not any(codes):
            continue
        if leaving.wait(_GRACE_SECONDS):  # the main thread has noticed
            return
        if any(code and code < 0 for code in codes):  # else that process has told why it ended
            failed(_death(children, folder))
        os._exit(1)


def _death(children: Sequence[subprocess.Popen[bytes]], folder: Path) -> str:
    """How processes of the run died, and how it goes on."""
    time.sleep(0.2 if children else 0)  # a process is gone a moment later than its connections
    codes = {rank: child.poll() for rank, child in enumerate(children, start=1)}
    died = [f"process {rank} was killed ({signal.Signals(-c).name})" for rank, c in codes.items() if c and c < 0]
    died += [f"process {rank} ended with {code}" for rank, code in codes.items() if code and code > 0]
    what = ", ".join(died) or "another process of the run is gone"
    return f"{folder}: {what}: all processes stop; `codecctl resume {folder}` goes on from the last checkpoint"


def _is_lost(error: BaseException) -> bool:
    """Whether this process failed because it could not talk to another."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)
    )


def _may_tell(folder: Path) -> bool:
    """Whether this process is the first of the run to tell how it ends. To be asked once."""
    try:
        store, key = dist.distributed_c10d._get_default_store(), f"told {folder}"
        is_first = int(store.add(key, 1)) == 1
        if dist.get_rank() == 0:  # the store goes with it, and the others have yet to ask
            until = time.monotonic() + _ASKING_SECONDS
            while int(store.add(key, 0)) < dist.get_world_size() and time.monotonic() < until:
                time.sleep(0.02)
        return is_first
    except Exception:  # no connection yet, or the process is gone that keeps the store
        return True
