"""Perceptual metrics in worker processes: they take most of the time, and one core each."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TYPE_CHECKING, Self

from codecctl.errors import CodecctlError

if TYPE_CHECKING:
    from codecctl.audio import Audio
    from codecctl.evaluate.metrics.metric import Context

# Nothing heavy is imported above: a worker sets its thread limits before it imports numpy.
SystemScores = dict[str, dict[str, float]]  # by system and metric


class PerceptualPool:
    """Computes perceptual scores in `n_workers` processes; with 0, at once in this one."""

    def __init__(self, metrics: Sequence[str], n_workers: int) -> None:
        self.metrics = tuple(metrics)
        self.max_running = 2 * n_workers
        # "spawn" alone is safe beside torch's threads, and is the same on every platform.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(n_workers, context, initializer=_start_worker) if n_workers else None
        self._running: set[Future[SystemScores]] = set()

    def submit(self, pairs: dict[str, tuple[Audio, Audio]], original: Audio, context: Context) -> Future[SystemScores]:
        """Score reference and decoded [L] of each system, and the original, at `metric.SAMPLE_RATE`.

        Waits while `max_running` calls are unfinished, so that memory does not grow with the set.
        """
        if self._pool is None:
            future: Future[SystemScores] = Future()
            future.set_result(_score_all(pairs, original, self.metrics, context))
            return future
        if len(self._running) >= self.max_running:
            self._running = wait(self._running, return_when=FIRST_COMPLETED).not_done
        future = self._pool.submit(_score_all, pairs, original, self.metrics, context)
        self._running.add(future)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if kind is BrokenProcessPool:
            raise CodecctlError(
                "a process that computes metrics was killed, perhaps for lack of memory; --workers 1 needs less"
            ) from None


def _start_worker() -> None:
    """Ctrl-C is handled by the main process, which ends the workers. One core each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def _score_all(
    pairs: dict[str, tuple[Audio, Audio]], original: Audio, metrics: tuple[str, ...], context: Context
) -> SystemScores:
    from codecctl.evaluate.perceptual import score_all

    return score_all(pairs, original, metrics, context)
