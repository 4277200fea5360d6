"""Scores of a codec over a set of recordings: all those of `codecctl validate`, and a training run's quick ones."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.baselines import curve_of, has_opus, opus_name
from codecctl.evaluate.codebooks import BookStats, CodebookCounter, Counts
from codecctl.evaluate.hearing import MEASURES, unavailable
from codecctl.evaluate.metrics import MelDistance, nan_mean, si_sdr_db, snr_db
from codecctl.evaluate.recordings import Recording, choose, find_recordings
from codecctl.evaluate.result import Tally, Validation
from codecctl.evaluate.rows import RowFile
from codecctl.evaluate.scoring import Plan, Renderer, measure
from codecctl.evaluate.verdict import check_requirements
from codecctl.evaluate.words import check_recogniser
from codecctl.model.codec import Codec
from codecctl.workers import hash_of

ROWS_NAME = "rows.jsonl"
_DEFAULTS = ValidateConfig()


@dataclass(frozen=True)
class Scores:
    """What a training run asks for as it goes."""

    values: dict[str, float]  # si_sdr_db, snr_db, mel_distance: means over the recordings; NaN: not defined on any
    books: list[BookStats]
    counts: list[Counts]  # [V] of each book: how often each codeword was chosen


@dataclass(frozen=True)
class ValidationSet:
    """The recordings that a training run is measured on, the same every time."""

    recordings: list[Recording]

    @classmethod
    def open(cls, data: str | Path, limit: int | None = None) -> Self:
        """At most `limit` of the recordings in `data`. Raises `CodecctlError` if there are none."""
        return cls(choose(find_recordings(data), limit))

    def score(self, codec: Codec) -> Scores:
        """The codec's scores with all books. The codec is left in the mode in which it was found."""
        training = codec.training
        scorer = _QuickScorer(codec.eval())
        try:
            for recording in self.recordings:
                scorer.add(recording)
        finally:
            codec.train(training)
        values = {name: nan_mean(torch.tensor(values)) for name, values in scorer.values.items()}
        return Scores(values, scorer.counter.stats(), scorer.counter.counts)


@dataclass(frozen=True)
class Work:
    """What `validate` is asked to do beyond the config."""

    against: Codec | None = None  # another checkpoint, measured on the same recordings
    curve: bool = False  # fewer books, and all but the first, too
    folder: Path | None = None  # where each recording's scores are kept as soon as they are known
    go_on: bool = False  # with those that an interrupted run left in `folder`
    n_workers: int = 2  # processes for the measures of hearing
    identity: dict[str, Any] = field(default_factory=dict)  # of the models, so that others' scores are not mixed in


def validate(
    codec: Codec,
    recordings: Sequence[Recording],
    *,
    source: str,
    config: ValidateConfig = _DEFAULTS,
    work: Work | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Measure the codec and its anchors on each recording. Memory grows with the set by a few numbers each alone.

    `progress` is told how many recordings of how many are done. An interrupt (Ctrl-C) ends the work early: what is done
    is returned, and `n_missing` tells how much is not. A recording that cannot be read is named in `failed`.

    Raises `UsageError` for a requirement on what is no metric and for scores in `work.folder` that do not fit,
    `CodecctlError` if no recording can be measured, `Interrupted` if none was done.
    """
    work = work or Work()
    check_requirements(config.require)
    renderer = Renderer(codec, make_plan(codec, config, curve=work.curve), work.against)
    tally = Tally(codec)
    rows = RowFile(work.folder / ROWS_NAME) if work.folder else None
    settings = _settings(renderer.plan, recordings, work)
    delays = _take_up(rows, settings, tally) if rows and work.go_on else None
    left = [recording for recording in recordings if recording.id not in tally.ids]
    failed: dict[str, str] = {}
    interrupted, n_threads = False, torch.get_num_threads()
    try:
        _leave_cores(work.n_workers if renderer.plan.measures else 0)
        if delays is None:
            delays = renderer.find_delays(recordings)
            if rows:
                rows.start({**settings, "delays": delays})
        found = measure(
            renderer, left, delays, n_workers=work.n_workers, failed=lambda r, e: failed.update({r.id: str(e)})
        )
        for row in found:
            if rows:
                rows.append(row)
            tally.add(row)
            if progress:
                progress(len(tally.ids), len(recordings))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        torch.set_num_threads(n_threads)
    if not tally.ids:
        if interrupted:
            raise Interrupted("interrupted before the first recording was done", signal.SIGINT)
        raise CodecctlError(f"{source}: {_why_nothing(failed)}")
    return tally.result(
        source=source,
        n_missing=len(recordings) - len(tally.ids) - len(failed) if interrupted else 0,
        delays=delays or {},
        not_measured=_not_measured(config),
        failed=failed,
    )


def make_plan(codec: Codec, config: ValidateConfig, *, curve: bool) -> Plan:
    """What can be measured with what is installed."""
    missing = unavailable(config.metrics, config.recogniser)
    measures = tuple(name for name in config.metrics if MEASURES[name].names[0] not in missing)
    recogniser = config.recogniser if "words" in measures else None
    if recogniser is not None:
        check_recogniser(recogniser)
    return Plan(config.opus_kbps if has_opus() else (), tuple(curve_of(codec, config)), curve, measures, recogniser)


def signal_scores(reference: Tensor, decoded: Tensor, mel_distance: MelDistance) -> dict[str, Tensor]:
    """[B, L] twice -> [B] by metric."""
    return {
        "si_sdr_db": si_sdr_db(reference, decoded),
        "snr_db": snr_db(reference, decoded),
        "mel_distance": mel_distance(reference, decoded),
    }


class _QuickScorer:
    """Running scores of the signal alone, on the codec's device."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.device = next(codec.parameters()).device
        self.mel_distance = MelDistance(codec.sample_rate).to(self.device)
        self.counter = CodebookCounter(codec.config.quantizer.codebook_sizes)
        self.values: dict[str, list[float]] = defaultdict(list)

    @torch.inference_mode()
    def add(self, recording: Recording) -> None:
        """A recording's score is the mean over its pieces."""
        pieces: dict[str, list[Tensor]] = defaultdict(list)
        for audio in recording.pieces(self.codec.sample_rate):
            audio = audio.to(self.device)[None]  # [1, 1, L]
            codes = self.codec.encode(audio)
            decoded = self.codec.decode(codes, length=audio.shape[-1])
            for name, value in signal_scores(audio[:, 0], decoded[:, 0].clamp(-1, 1), self.mel_distance).items():
                pieces[name].append(value)
            self.counter.update(codes)
        for name, values in pieces.items():
            self.values[name].append(nan_mean(torch.cat(values)))


def _leave_cores(n_workers: int) -> None:
    """Threads of torch that wait for one another beside busy workers spend more time waiting than computing."""
    if n_workers:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - n_workers))


def _settings(plan: Plan, recordings: Sequence[Recording], work: Work) -> dict[str, Any]:
    """What two runs must share for their scores to be put together."""
    about = [astuple(plan), work.identity, [r.id for r in recordings]]
    return {"format": "codecctl.rows", "version": 2, "measured_with": hash_of(*about)}


def _take_up(rows: RowFile, settings: dict[str, Any], tally: Tally) -> dict[str, float] | None:
    """Put the rows that are there into the tally; returns their delays, or None if nothing was begun."""
    found = rows.settings()
    if found is None:
        return None
    if {key: found.get(key) for key in settings} != settings:
        raise UsageError(
            f"{rows.path}: was measured with another model, other recordings or settings; leave --continue out to "
            "measure anew"
        )
    for row in rows.rows():
        tally.add(row)
    delays: dict[str, float] = found["delays"]
    return delays


def _not_measured(config: ValidateConfig) -> dict[str, str]:
    reasons = unavailable(config.metrics, config.recogniser)
    if not has_opus():
        reasons.update({opus_name(kbps): "not installed (av is missing): pip install av" for kbps in config.opus_kbps})
    return reasons


def _why_nothing(failed: dict[str, str]) -> str:
    return f"none of {len(failed)} recordings can be read: {next(iter(failed.values()))}" if failed else "no recordings"
