"""The measurement of one codec on a set of utterances, which an interrupt may end and a later run continue."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.baselines import has_opus, opus_name
from codecctl.evaluate.perceptual import unavailable
from codecctl.evaluate.rendering import N_KEPT, Plan, Renderer
from codecctl.evaluate.result import Validation
from codecctl.evaluate.rows import Row, RowFile
from codecctl.evaluate.scorer import Scorer
from codecctl.evaluate.tally import Tally
from codecctl.evaluate.utterances import ReferenceUtterance, choose
from codecctl.evaluate.verdict import check_requirements
from codecctl.model.codec import Codec
from codecctl.workers import hash_of

ROWS_NAME = "rows.jsonl"


class Session:
    """Measures a codec and its baselines, and another codec `against` it.

    `parts`: also the codec with some of its codebooks. `folder`: each utterance's scores are kept there as soon as they
    are known; `identity` differs between models, so that scores of others are not continued.

    Raises `UsageError` for an unknown metric or requirement.
    """

    def __init__(
        self,
        codec: Codec,
        utterances: Sequence[ReferenceUtterance],
        config: ValidateConfig,
        *,
        against: Codec | None = None,
        parts: bool = False,
        folder: Path | None = None,
        identity: Any = None,
        n_workers: int = 2,
    ) -> None:
        check_requirements(config.require)
        self.codec, self.utterances, self.config, self.n_workers = codec, utterances, config, n_workers
        self.renderer = Renderer(codec, Plan.of(codec, config, parts=parts), against)
        self.renderer.keep = {utterance.id for utterance in choose(utterances, N_KEPT)}
        self._rows = RowFile(folder / ROWS_NAME) if folder else None
        about = [astuple(self.renderer.plan), identity, [utterance.id for utterance in utterances]]
        self._settings = {"format": "codecctl.rows", "version": 3, "measured_with": hash_of(*about)}

    def measure(
        self, *, source: str = "", resume: bool = False, on_progress: Callable[[int, int], Any] | None = None
    ) -> Validation:
        """Measure each utterance; with `resume`, those whose scores `folder` does not hold yet.

        `on_progress(n_done, n_all)` is called after each utterance. Ctrl-C ends the work early: the result covers what
        is done, `n_missing` counts the rest. An utterance that cannot be read is named in `failed`.

        Raises `UsageError` for scores in `folder` that do not fit, `CodecctlError` if no utterance can be measured,
        `Interrupted` if none was done.
        """
        tally, failed = Tally(self.codec), dict[str, str]()
        delays = self._resume(tally) if resume else None
        left = [utterance for utterance in self.utterances if utterance.id not in tally.ids]
        interrupted = False
        try:
            with _threads_beside(self.n_workers if self.renderer.plan.metrics else 0):
                if delays is None:
                    delays = self.renderer.find_delays(self.utterances)
                    self._start_rows(delays)
                scorer = Scorer(self.renderer, delays, n_workers=self.n_workers)
                for row in scorer.rows(left, lambda utterance, error: failed.update({utterance.id: str(error)})):
                    self._keep_row(row)
                    tally.add(row)
                    if on_progress:
                        on_progress(len(tally.ids), len(self.utterances))
        except KeyboardInterrupt:
            interrupted = True
        if not tally.ids:
            if interrupted:
                raise Interrupted("interrupted before the first recording was done", signal.SIGINT)
            raise CodecctlError(f"{source}: {_why_nothing(failed)}")
        return tally.result(
            source=source,
            n_missing=len(self.utterances) - len(tally.ids) - len(failed) if interrupted else 0,
            delays=delays or {},
            not_measured=_not_measured(self.config),
            failed=failed,
        )

    def _start_rows(self, delays: dict[str, float]) -> None:
        if self._rows:
            self._rows.start({**self._settings, "delays": delays})

    def _keep_row(self, row: Row) -> None:
        if self._rows:
            self._rows.append(row)

    def _resume(self, tally: Tally) -> dict[str, float] | None:
        """Add the rows of the folder to the tally; returns their delays, or None if there are no rows."""
        found = self._rows.settings() if self._rows else None
        if self._rows is None or found is None:
            return None
        if {key: found.get(key) for key in self._settings} != self._settings:
            raise UsageError(
                f"{self._rows.path}: was measured with another model, other recordings or settings; leave --continue "
                "out to measure anew"
            )
        for row in self._rows.rows():
            tally.add(row)
        return dict(found["delays"])


@contextmanager
def _threads_beside(n_workers: int) -> Iterator[None]:
    """Leave the workers their cores: torch's threads wait for one another, so they are slow where cores are busy."""
    n_threads = torch.get_num_threads()
    if n_workers:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - n_workers))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _not_measured(config: ValidateConfig) -> dict[str, str]:
    reasons = unavailable(config.metrics, config.recogniser)
    if not has_opus():
        reasons.update({opus_name(kbps): "not installed (av is missing): pip install av" for kbps in config.opus_kbps})
    return reasons


def _why_nothing(failed: dict[str, str]) -> str:
    return f"none of {len(failed)} recordings can be read: {next(iter(failed.values()))}" if failed else "no recordings"
