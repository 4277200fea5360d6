"""What a run writes down: one JSON line an event, and TensorBoard beside it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from codecctl.evaluate.codebooks import BookStats
from codecctl.files import replacing
from codecctl.train.checkpoint import Run


class RunLog:
    """`metrics.jsonl` and `tb/` of a run. Opening it drops what a killed run wrote after `step`."""

    def __init__(self, run: Run, step: int, sample_rate: int) -> None:
        _drop_after(run, step)
        self._sample_rate = sample_rate
        self._file = run.metrics.open("a", encoding="utf-8")
        # TensorBoard's own thread raises again at the next call; its traceback on the terminal says nothing more.
        self._hook, threading.excepthook = threading.excepthook, self._hide_full_disk
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def write(self, step: int, kind: str, values: dict[str, float], books: Sequence[BookStats]) -> None:
        """One event: `kind` is train, validation or checkpoint; `books` the codebooks' state over it."""
        per_book = {"codebook_usage": [b.codebook_usage for b in books], "perplexity": [b.perplexity for b in books]}
        per_book = per_book if books else {}
        self._file.write(json.dumps({"step": step, "kind": kind, **values, **per_book}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._scalar(f"{kind}/{name}", value, step)
        for name, by_book in per_book.items():
            for k, value in enumerate(by_book, start=1):
                self._scalar(f"{kind}_{name}/book_{k}", value, step)

    def audio(self, step: int, name: str, audio: Tensor) -> None:
        """[1, L]"""
        self._tensorboard.add_audio(name, audio.clamp(-1, 1), step, self._sample_rate)

    def _hide_full_disk(self, failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            self._hook(failure)

    def _scalar(self, name: str, value: Any, step: int) -> None:
        self._tensorboard.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and a full disk has been told already
            self._file.close()
        with contextlib.suppress(OSError):
            self._tensorboard.close()
        threading.excepthook = self._hook


class NoLog(RunLog):
    """For every rank but the first: only one process writes."""

    def __init__(self) -> None: ...

    def write(self, step: int, kind: str, values: dict[str, float], books: Sequence[BookStats]) -> None: ...

    def audio(self, step: int, name: str, audio: Tensor) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _drop_after(run: Run, step: int) -> None:
    if not run.metrics.exists():
        return
    kept = [line for line in run.metrics.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    with replacing(run.metrics) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """A line that a kill cut short belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
