"""A bounded pool of workers, and independent units of work, here or on a Ray cluster."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any, Literal, ParamSpec, Self, TypeVar

from codecctl.errors import CodecctlError, UsageError
from codecctl.text import to_bytes

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 60

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class BoundedPool:
    """Runs calls in `n_workers` processes or threads, with at most 2 x n_workers submitted and not yet finished.

    With 0 workers `submit` makes the call itself. Leaving the `with` block cancels calls that have not started and
    waits for the others; a worker process that was killed raises `CodecctlError` there.
    """

    def __init__(
        self,
        n_workers: int,
        kind: Literal["processes", "threads"] = "processes",
        *,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self.n_submitted_at_most = 2 * n_workers
        self._free = threading.Semaphore(self.n_submitted_at_most)
        self._pool: Executor | None = None
        if n_workers and kind == "threads":
            self._pool = ThreadPoolExecutor(n_workers, initializer=initializer)
        elif n_workers:
            # "spawn" alone is safe beside the caller's threads (torch, a progress bar), and is the same everywhere.
            context = multiprocessing.get_context("spawn")
            start = partial(_start_worker, initializer)
            self._pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=start)

    def submit(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Start `call(*args, **kwargs)`; waits while too many calls are under way, so that memory stays bounded."""
        if self._pool is None:
            return _call(call, *args, **kwargs)
        self._free.acquire()
        if isinstance(self._pool, ProcessPoolExecutor):
            with _interrupts_held():  # also in the processes that start here, until they are ready
                future = self._pool.submit(_interruptible, partial(call, *args, **kwargs))
        else:
            future = self._pool.submit(call, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for process in multiprocessing.active_children():
            if isinstance(error, BrokenProcessPool):
                process.kill()  # the others need not finish
            elif isinstance(error, KeyboardInterrupt) and process.pid:  # of a signal to this process alone, perhaps
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise CodecctlError(
                "a worker process was killed, perhaps for lack of memory; run the same command again with fewer workers"
            ) from None


def _start_worker(initializer: Callable[[], None] | None) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, _interrupt)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if initializer is not None:
        initializer()


def leave_signals() -> None:
    """In a worker process: its parent alone answers signals, which schedulers send to all processes of a job.

    SIGTERM ends the worker a minute later: a pool that is broken sends it, too, and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def use_one_thread() -> None:
    """As `initializer` of a pool: a process uses one core, and leaves signals to the one that started it."""
    leave_signals()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # read when numpy is imported, which this module does not do


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Within: Ctrl-C waits."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # by the first process that starts, and then it lets interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """This process, if it is a worker."""

    is_working = was_interrupted = False


def _interrupt(*_: object) -> None:
    """Ctrl-C ends the call that a worker process is in and those that wait; between calls it gives no traceback."""
    _Worker.was_interrupted = True
    if _Worker.is_working:
        raise KeyboardInterrupt


def _interruptible(call: Callable[[], Result]) -> Result:
    if _Worker.was_interrupted:
        raise KeyboardInterrupt
    _Worker.is_working = True
    try:
        return call()
    finally:
        _Worker.is_working = False


def _call(call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Future[Result]:
    """The finished future of a call made here."""
    future: Future[Result] = Future()
    try:
        future.set_result(call(*args, **kwargs))
    except Exception as error:
        future.set_exception(error)
    return future


def run_units(
    work: Callable[[Unit], Result],
    units: Sequence[Unit],
    *,
    n_workers: int = 1,
    executor: str = "processes",
    n_gpus: float = 0.0,
) -> Iterator[tuple[Unit, Result]]:
    """(unit, work(unit)) for each unit, in the order in which they finish.

    `work` is a function of a module or a `functools.partial` of one; its argument and result can be pickled. With one
    worker it is called in this process. On Ray each call takes `n_gpus` of a card, which can be a share. An exception
    in `work` ends the run and is raised here; finished units stay.
    """
    if executor == "ray":
        yield from _run_on_ray(work, units, n_workers, n_gpus)
    elif executor != "processes":
        raise UsageError(f"executor '{executor}': expected 'processes' or 'ray'")
    else:
        n_workers = min(n_workers, len(units))
        yield from _run_in_pool(work, units, n_workers if n_workers > 1 else 0)


def end_with_parent() -> None:
    """On Linux the kernel kills this process of `multiprocessing` when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # gone before the kernel was asked
            os._exit(1)


def parse_shard(text: str) -> tuple[int, int]:
    """'i/n' -> (i, n) with 1 <= i <= n: which part of the units this job does."""
    part, slash, whole = text.partition("/")
    if not (slash and part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise UsageError(f"--shard {text}: expected i/n, such as 3/8 for the third of eight jobs")
    return int(part), int(whole)


def hash_of(*values: Any) -> str:
    """A short hash of values that JSON can hold, the same on every machine."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(to_bytes(text), digest_size=16).hexdigest()


def _run_in_pool(
    work: Callable[[Unit], Result], units: Sequence[Unit], n_workers: int
) -> Iterator[tuple[Unit, Result]]:
    running: dict[Future[Result], Unit] = {}
    with BoundedPool(n_workers) as pool:
        for unit in units:
            running[pool.submit(work, unit)] = unit
            for future in [future for future in running if future.done()]:
                yield running.pop(future), future.result()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def _run_on_ray(
    work: Callable[[Unit], Result], units: Sequence[Unit], n_workers: int, n_gpus: float
) -> Iterator[tuple[Unit, Result]]:
    """On the cluster of `RAY_ADDRESS` or this machine's own; `n_workers` tasks at a time, by default 2 a core."""
    try:
        ray = import_module("ray")
    except ImportError:
        raise UsageError("executor 'ray' needs Ray: pip install \"codecctl[ray]\"") from None
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            hint = "start one with `ray start --head` or set RAY_ADDRESS"
            raise UsageError(f"executor 'ray' finds no cluster; {hint}") from None

    def call(unit: Unit) -> Result:  # Ray takes functions only, no `partial`
        return work(unit)

    task = ray.remote(max_retries=2, num_gpus=n_gpus)(call)
    n_ahead = n_workers if n_workers > 1 else 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(units)
    running: dict[Any, Unit] = {}
    try:
        while True:
            while len(running) < n_ahead and (unit := next(waiting, None)) is not None:
                running[task.remote(unit)] = unit
            if not running:
                break
            for reference in ray.wait(list(running))[0]:
                unit = running.pop(reference)
                yield unit, ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CodecctlError) else error) from None
    except ray.exceptions.RayError as error:
        reason = str(error).splitlines()[0]
        raise CodecctlError(f"the Ray cluster lost a unit ({reason}); run the same command again") from None
    finally:
        for reference in running:
            ray.cancel(reference)
