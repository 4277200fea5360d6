"""Measures of hearing in processes of their own: they take most of the time, and one core each."""

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
    from codecctl.audio.files import Audio
    from codecctl.evaluate.hearing import About

# Nothing heavy is imported above: a worker sets its thread limits before numpy comes.
_Scores = dict[str, dict[str, float]]  # system -> measure -> value


class HearingPool:
    """Scores the decoded signals of pieces in `n_workers` processes; with 0, at once and here."""

    def __init__(self, measures: Sequence[str], n_workers: int) -> None:
        self.measures = tuple(measures)
        self.n_waiting_at_most = 2 * n_workers
        # "spawn" alone is safe beside torch's threads, and is the same everywhere.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(n_workers, context, initializer=_start_worker) if n_workers else None
        self._running: set[Future[_Scores]] = set()

    def submit(self, pairs: dict[str, tuple[Audio, Audio]], original: Audio, about: About) -> Future[_Scores]:
        """Reference and decoded [L] by system, at `hearing.SAMPLE_RATE`, and the original.

        Waits while too many are under way, so that memory does not grow with the set.
        """
        if self._pool is None:
            future: Future[_Scores] = Future()
            future.set_result(_score_all(pairs, original, self.measures, about))
            return future
        if len(self._running) >= self.n_waiting_at_most:
            self._running = wait(self._running, return_when=FIRST_COMPLETED).not_done
        future = self._pool.submit(_score_all, pairs, original, self.measures, about)
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
                "a process that scores was killed, perhaps for lack of memory; --workers 1 takes less"
            ) from None


def _start_worker() -> None:
    """Ctrl-C is for the main process, which ends the workers; one core each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def _score_all(
    pairs: dict[str, tuple[Audio, Audio]], original: Audio, measures: tuple[str, ...], about: About
) -> _Scores:
    from codecctl.evaluate.hearing import score_all

    return score_all(pairs, original, measures, about)
