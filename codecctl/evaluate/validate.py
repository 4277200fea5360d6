"""Scores of a codec over a set of recordings: all those of `codecctl validate`, and a training run's quick ones."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.baselines import CODEC, curve_of, has_opus, opus_name
from codecctl.evaluate.codebooks import BookStats, CodebookCounter, Counts
from codecctl.evaluate.hearing import MEASURES, About, unavailable
from codecctl.evaluate.metrics import MelDistance, nan_mean, si_sdr_db, snr_db
from codecctl.evaluate.pool import HearingPool
from codecctl.evaluate.recordings import Recording, choose, find_recordings
from codecctl.evaluate.result import Tally, Validation
from codecctl.evaluate.rows import RowFile
from codecctl.evaluate.scoring import Plan, Renderer, at_hearing_rate, measure
from codecctl.evaluate.verdict import check_requirements
from codecctl.evaluate.words import check_recogniser
from codecctl.model.codec import Codec
from codecctl.workers import hash_of

ROWS_NAME = "rows.jsonl"
_MOST_WORKERS = 4  # processes for the measures of hearing, while a training waits
_DEFAULTS = ValidateConfig()


@dataclass(frozen=True)
class Scores:
    """What a training run asks for as it goes."""

    values: dict[str, float]  # means over the recordings; NaN: not defined on any
    books: list[BookStats]
    counts: list[Counts]  # [V] of each book: how often each codeword was chosen


@dataclass(frozen=True)
class ValidationSet:
    """The recordings that a training run is measured on, the same every time, and the measures of hearing."""

    recordings: list[Recording]
    config: ValidateConfig

    @classmethod
    def open(cls, data: str | Path, config: ValidateConfig) -> Self:
        """The config's choice of the recordings in `data`. Raises `CodecctlError` if there are none."""
        return cls(choose(find_recordings(data), config.n_utterances), config)

    def in_words(self) -> str:
        """How much is measured, by what measures of hearing, and why not by those that are asked for in vain."""
        missing = unavailable(self.config.metrics, self.config.recogniser)
        outputs = {name: MEASURES[name].names[0] for name in self.config.metrics}
        taken = [name for name, output in outputs.items() if output not in missing]
        lost = [f"{name} {missing[output]}" for name, output in outputs.items() if output in missing]
        return "; ".join([f"{len(self.recordings)} recordings, {', '.join(taken) or 'no measure of hearing'}", *lost])

    def score(self, codec: Codec) -> Scores:
        """The codec's scores with all books. The codec is left in the mode in which it was found."""
        training, measures = codec.training, installed(self.config)
        n_workers = min(_MOST_WORKERS, os.cpu_count() or 1) if measures else 0
        try:
            with HearingPool(measures, n_workers) as pool:
                scorer = _QuickScorer(codec.eval(), self.config.recogniser, pool)
                for recording in self.recordings:
                    scorer.add(recording)
                return scorer.scores()
        finally:
            codec.train(training)


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
    measures = installed(config)
    recogniser = config.recogniser if "words" in measures else None
    return Plan(config.opus_kbps if has_opus() else (), tuple(curve_of(codec, config)), curve, measures, recogniser)


def installed(config: ValidateConfig) -> tuple[str, ...]:
    """The measures of hearing that the config asks for and that can be taken here. Raises `CodecctlError` for a
    recogniser that is none."""
    missing = unavailable(config.metrics, config.recogniser)
    measures = tuple(name for name in config.metrics if MEASURES[name].names[0] not in missing)
    if "words" in measures and config.recogniser is not None:
        check_recogniser(config.recogniser)
    return measures


def signal_scores(reference: Tensor, decoded: Tensor, mel_distance: MelDistance) -> dict[str, Tensor]:
    """[B, L] twice -> [B] by metric."""
    return {
        "si_sdr_db": si_sdr_db(reference, decoded),
        "snr_db": snr_db(reference, decoded),
        "mel_distance": mel_distance(reference, decoded),
    }


class _QuickScorer:
    """Running scores of one codec, on its device; what is heard is scored in the processes of `pool` meanwhile."""

    def __init__(self, codec: Codec, recogniser: str | None, pool: HearingPool) -> None:
        self.codec, self.recogniser, self.pool = codec, recogniser, pool
        self.device = next(codec.parameters()).device
        self.mel_distance = MelDistance(codec.sample_rate).to(self.device)
        self.counter = CodebookCounter(codec.config.quantizer.codebook_sizes)
        self.seen: list[dict[str, list[float]]] = []  # of each recording, a value for each piece
        self.heard: list[list[Future[dict[str, dict[str, float]]]]] = []

    @torch.inference_mode()
    def add(self, recording: Recording) -> None:
        rate = self.codec.sample_rate
        seen: dict[str, list[float]] = defaultdict(list)
        heard = []
        for audio in recording.pieces(rate):
            on_device = audio.to(self.device)[None]  # [1, 1, L]
            codes = self.codec.encode(on_device)
            decoded = self.codec.decode(codes, length=audio.shape[-1]).clamp(-1, 1)
            for name, value in signal_scores(on_device[:, 0], decoded[:, 0], self.mel_distance).items():
                seen[name].append(float(value))
            if self.pool.measures:
                pair = at_hearing_rate(audio[0].numpy(), rate), at_hearing_rate(decoded[0, 0].cpu().numpy(), rate)
                about = About(recording.language, recogniser=self.recogniser)
                heard.append(self.pool.submit({CODEC: pair}, pair[0], about))
            self.counter.update(codes)
        self.seen.append(seen)
        self.heard.append(heard)

    def scores(self) -> Scores:
        """Once all is scored. A recording's score is the mean over its pieces, NaN where a measure could not say."""
        values: dict[str, list[float]] = defaultdict(list)
        for seen, heard in zip(self.seen, self.heard, strict=True):
            pieces = [future.result()[CODEC] for future in heard]
            by_name = seen | {name: [piece[name] for piece in pieces] for name in (pieces[0] if pieces else ())}
            for name, of_pieces in by_name.items():
                values[name].append(nan_mean(torch.tensor(of_pieces)))
        means = {name: nan_mean(torch.tensor(of_recordings)) for name, of_recordings in values.items()}
        return Scores(means, self.counter.stats(), self.counter.counts)


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
