"""The result of a validation: means with their intervals by system and group, codebooks, the worst recordings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codecctl.evaluate.baselines import CODEC, label_of
from codecctl.evaluate.belief import Mean, means
from codecctl.evaluate.codebooks import BookStats, CodebookCounter
from codecctl.evaluate.hearing import ORIGINAL
from codecctl.evaluate.metrics import BOUNDS, METRICS
from codecctl.evaluate.probe import ContentProbe, ContentProber, SpeakerProbe, SpeakerProber, latents_of
from codecctl.evaluate.rows import Row
from codecctl.evaluate.scoring import AGAINST
from codecctl.model.codec import Codec

N_WORST = 10


@dataclass(frozen=True)
class System:
    """One system's scores over all recordings."""

    name: str
    label: str
    bitrate_kbps: float | None  # true, from bits or bytes; None: not a matter of bits
    metrics: dict[str, Mean]


@dataclass(frozen=True)
class Group:
    """The codec's scores over the recordings of one dataset, language or speaker."""

    kind: str  # dataset, language or speaker
    name: str
    n_utterances: int
    seconds: float
    metrics: dict[str, Mean]
    books: tuple[BookStats, ...]  # of languages; empty for the others


@dataclass(frozen=True)
class Comparison:
    """The codec less the other checkpoint, recording by recording."""

    differences: dict[str, Mean]
    equal_codes: tuple[float, ...] | None  # share in each book that both have; None: they do not count alike


@dataclass(frozen=True)
class Validation:
    """What a codec is worth on a set of recordings."""

    source: str  # which recordings
    n_utterances: int
    n_missing: int  # not measured because the work was interrupted
    seconds: float
    bitrate_kbps: float  # true: bits of all codes over the duration of all recordings
    systems: tuple[System, ...]  # the codec first
    groups: tuple[Group, ...]
    books: tuple[BookStats, ...]
    histograms: tuple[NDArray[np.int64], ...]  # hits of each codeword of each book, in the book's order
    entropy_coded_kbps: float  # what ideal coding of each book by itself would need
    delays: dict[str, float]  # samples, taken out before scoring
    worst: dict[str, list[tuple[str, float]]]  # by metric: recording and score, the worst first
    speaker_probe: SpeakerProbe | None
    content_probe: ContentProbe | None
    n_transcripts: int  # recordings whose words are known; those of others are what the recogniser reads from them
    comparison: Comparison | None
    not_measured: dict[str, str]  # metric or anchor -> reason
    failed: dict[str, str]  # recording -> what is wrong with it

    @property
    def means(self) -> dict[str, float]:
        """The codec's, by metric; NaN: not defined on any recording."""
        return {name: mean.value for name, mean in self.systems[0].metrics.items()}

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: what is not defined is null."""
        return {
            "source": self.source,
            "n_utterances": self.n_utterances,
            "n_missing": self.n_missing,
            "seconds": self.seconds,
            "bitrate_kbps": self.bitrate_kbps,
            "entropy_coded_kbps": self.entropy_coded_kbps,
            "metrics": {name: None if math.isnan(value) else value for name, value in self.means.items()},
            "systems": {
                s.name: {"label": s.label, "bitrate_kbps": s.bitrate_kbps, "metrics": _to_dicts(s.metrics)}
                for s in self.systems
            },
            "groups": [
                {**asdict(group), "metrics": _to_dicts(group.metrics), "books": [asdict(book) for book in group.books]}
                for group in self.groups
            ],
            "books": [asdict(book) for book in self.books],
            "delays_samples": self.delays,
            "worst": self.worst,
            "speaker_probe": asdict(self.speaker_probe) if self.speaker_probe else None,
            "content_probe": asdict(self.content_probe) if self.content_probe else None,
            "n_transcripts": self.n_transcripts,
            "against": {
                "differences": _to_dicts(self.comparison.differences),
                "equal_codes": self.comparison.equal_codes,
            }
            if self.comparison
            else None,
            "not_measured": self.not_measured,
            "failed": self.failed,
        }


class Tally:
    """Rows put together: some numbers and names a recording, and counts of codes."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        sizes = codec.config.quantizer.codebook_sizes
        self._counter = CodebookCounter(sizes, pairs=True)
        self._by_language: dict[str, CodebookCounter] = defaultdict(lambda: CodebookCounter(sizes))
        self._speakers, self._content = SpeakerProber(), ContentProber()
        self._n_transcripts = 0
        self.ids: dict[str, int] = {}  # in the order of the rows
        self._about: list[tuple[str, str | None, str | None]] = []  # dataset, language, speaker
        self._seconds: list[float] = []
        self._scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._n_bits: dict[str, int] = defaultdict(int)
        self._equal: list[tuple[tuple[int, ...] | None, int]] = []  # equal codes by book, frames

    def add(self, row: Row) -> None:
        self.ids[row.id] = len(self.ids)
        self._about.append((row.dataset, row.language, row.speaker))
        self._seconds.append(row.seconds)
        for system, values in row.scores.items():
            for name, value in values.items():
                self._scores[system][name].append(value)
        for system, n_bits in row.n_bits.items():
            self._n_bits[system] += n_bits
        codes = torch.from_numpy(row.codes.astype(np.int64))[None]  # [1, K, T]
        self._counter.update(codes)
        if row.language is not None:
            self._by_language[row.language].update(codes)
        latents = latents_of(self._codec, row.codes)
        self._speakers.add(row.speaker, latents)
        self._content.add(latents, row.envelope)
        self._n_transcripts += row.has_transcript
        self._equal.append((row.n_equal_codes, row.codes.shape[1]))

    def result(
        self,
        *,
        source: str,
        n_missing: int,
        delays: dict[str, float],
        not_measured: dict[str, str],
        failed: dict[str, str],
    ) -> Validation:
        seconds = sum(self._seconds)
        books = self._counter.stats()
        return Validation(
            source=source,
            n_utterances=len(self.ids),
            n_missing=n_missing,
            seconds=seconds,
            bitrate_kbps=self._n_bits[CODEC] / seconds / 1000,
            systems=tuple(self._system(name, seconds) for name in self._in_order()),
            groups=tuple(self._groups()),
            books=tuple(books),
            histograms=tuple(count.copy() for count in self._counter.counts),
            entropy_coded_kbps=sum(book.coding_bits * book.n_codes for book in books) / seconds / 1000,
            delays=delays,
            worst=self._worst(),
            speaker_probe=self._speakers.result(),
            content_probe=self._content.result(),
            n_transcripts=self._n_transcripts,
            comparison=self._comparison(),
            not_measured=not_measured,
            failed=failed,
        )

    def _in_order(self) -> list[str]:
        """The codec first, then what else was measured, as it came; the original where anything is known of it."""
        names = [name for name in self._scores if name not in (CODEC, ORIGINAL) and self._scores[name]]
        return [CODEC, *names, *([ORIGINAL] if self._scores.get(ORIGINAL) else [])]

    def _system(self, name: str, seconds: float) -> System:
        known = {AGAINST: "the other checkpoint", ORIGINAL: "original"}
        label = known.get(name) or label_of(name, self._codec.n_codebooks)
        kbps = self._n_bits[name] / seconds / 1000 if name in self._n_bits else None
        return System(name, label, kbps, self._means(name, slice(None)))

    def _table(self, system: str) -> tuple[list[str], NDArray[np.float64]]:
        """Metric names and scores [N, M]."""
        names = [name for name in METRICS if name in self._scores[system]]
        columns = [self._scores[system][name] for name in names]
        return names, np.array(columns, np.float64).reshape(len(names), -1).T

    def _means(self, system: str, which: Sequence[int] | slice) -> dict[str, Mean]:
        names, table = self._table(system)
        return dict(zip(names, means(table[which]), strict=True)) if names else {}

    def _groups(self) -> list[Group]:
        """By dataset, language and speaker, where the recordings differ in it."""
        groups = []
        for place, kind in enumerate(("dataset", "language", "speaker")):
            members: dict[str, list[int]] = defaultdict(list)
            for i, about in enumerate(self._about):
                members[about[place] or "unknown"].append(i)
            for name in sorted(members if len(members) > 1 else ()):
                which = members[name]
                seconds = sum(self._seconds[i] for i in which)
                counter = self._by_language.get(name) if kind == "language" else None
                books = tuple(counter.stats()) if counter else ()
                groups.append(Group(kind, name, len(which), seconds, self._means(CODEC, which), books))
        return groups

    def _worst(self) -> dict[str, list[tuple[str, float]]]:
        names, table = self._table(CODEC)
        ids = list(self.ids)
        worst = {}
        for name, column in zip(names, table.T, strict=True):
            if name not in BOUNDS:
                badness = -column if METRICS[name].higher_is_better else column
                order = [int(i) for i in np.argsort(-badness, kind="stable") if not math.isnan(column[i])]
                worst[name] = [(ids[i], float(column[i])) for i in order[:N_WORST]]
        return worst

    def _comparison(self) -> Comparison | None:
        if AGAINST not in self._scores:
            return None
        names, table = self._table(CODEC)
        other_names, other = self._table(AGAINST)
        shared = [name for name in names if name in other_names]
        columns = [table[:, names.index(name)] - other[:, other_names.index(name)] for name in shared]
        differences = dict(zip(shared, means(np.stack(columns, axis=1)), strict=True))
        counted = [equal for equal, _ in self._equal if equal is not None]
        n_frames = sum(n for _, n in self._equal)
        shares = tuple((np.sum(counted, axis=0) / n_frames).tolist()) if len(counted) == len(self._equal) else None
        return Comparison(differences, shares)


def _to_dicts(metrics: dict[str, Mean]) -> dict[str, Any]:
    return {name: mean.to_dict() for name, mean in metrics.items()}
