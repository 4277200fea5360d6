"""The result of an evaluation: means with their intervals by system and group, codebooks, the worst utterances."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codecctl.evaluate.codebooks import CodebookCounter, CodebookStats
from codecctl.evaluate.intervals import Mean, mean_of_defined, means
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.probe import ContentProbe, ContentProber, SpeakerProbe, SpeakerProber, latents_of
from codecctl.evaluate.rows import Row
from codecctl.evaluate.systems import AGAINST, CODEC, ORIGINAL, label_of
from codecctl.model.codec import Codec

N_WORST = 10


@dataclass(frozen=True)
class System:
    """One system's scores over all utterances."""

    name: str
    label: str
    bitrate_kbps: float | None  # from the bits or bytes of the codes, over the duration; None: no bitrate
    metrics: dict[str, Mean]


@dataclass(frozen=True)
class Group:
    """The codec's scores over the utterances of one dataset, language or speaker."""

    kind: str  # dataset, language or speaker
    name: str
    n_utterances: int
    seconds: float
    metrics: dict[str, Mean]
    codebooks: tuple[CodebookStats, ...]  # of languages; empty for the others


@dataclass(frozen=True)
class Comparison:
    """The codec minus the other checkpoint, utterance by utterance."""

    differences: dict[str, Mean]
    equal_codes: tuple[float, ...] | None  # share by codebook that both have; None: the numbers of frames differ


@dataclass(frozen=True)
class Validation:
    """The scores of a codec on a set of utterances."""

    source: str  # the path of the utterances
    n_utterances: int
    n_missing: int  # not measured because the work was interrupted
    seconds: float
    bitrate_kbps: float  # true: bits of all codes over the duration of all utterances
    snr_bounds_db: tuple[float, float]  # means of `bound.snr_bounds_db`: freely spent bits, the same bits every frame
    systems: tuple[System, ...]  # the codec first
    groups: tuple[Group, ...]
    codebooks: tuple[CodebookStats, ...]
    histograms: tuple[NDArray[np.int64], ...]  # [V] of each codebook: hits of each codeword
    entropy_coded_kbps: float  # with ideal entropy coding of each codebook by itself
    delays: dict[str, float]  # samples, removed before scoring
    worst: dict[str, list[tuple[str, float]]]  # by metric: utterance and score, the worst first
    speaker_probe: SpeakerProbe | None
    content_probe: ContentProbe | None
    n_texts: int  # utterances with a transcript; the recogniser's reading of the original replaces the others'
    comparison: Comparison | None
    not_measured: dict[str, str]  # metric or system -> reason
    failed: dict[str, str]  # utterance -> error

    @property
    def means(self) -> dict[str, float]:
        """The codec's, by metric; NaN: undefined for every utterance."""
        return {name: mean.value for name, mean in self.systems[0].metrics.items()}

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """For `files.to_json`."""
        return {
            "source": self.source,
            "n_utterances": self.n_utterances,
            "n_missing": self.n_missing,
            "n_failed": len(self.failed),
            "seconds": self.seconds,
            "bitrate_kbps": self.bitrate_kbps,
            "entropy_coded_kbps": self.entropy_coded_kbps,
            "snr_bound_db": self.snr_bounds_db[0],
            "snr_bound_even_db": self.snr_bounds_db[1],
            "metrics": self.means,
            "systems": {
                s.name: {"label": s.label, "bitrate_kbps": s.bitrate_kbps, "metrics": _to_dicts(s.metrics)}
                for s in self.systems
            },
            "groups": [{**asdict(group), "metrics": _to_dicts(group.metrics)} for group in self.groups],
            "codebooks": [asdict(codebook) for codebook in self.codebooks],
            "delays_samples": self.delays,
            "worst": self.worst,
            "speaker_probe": asdict(self.speaker_probe) if self.speaker_probe else None,
            "content_probe": asdict(self.content_probe) if self.content_probe else None,
            "n_texts": self.n_texts,
            "against": {
                "differences": _to_dicts(self.comparison.differences),
                "equal_codes": self.comparison.equal_codes,
            }
            if self.comparison
            else None,
            "not_measured": self.not_measured,
            "failed": self.failed,
        }


def _to_dicts(metrics: dict[str, Mean]) -> dict[str, Any]:
    return {name: mean.to_dict() for name, mean in metrics.items()}


class Tally:
    """Keeps some numbers and names of each utterance, and counts of codes."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        sizes = codec.config.quantizer.codebook_sizes
        self._counter = CodebookCounter(sizes, pairs=True)
        self._by_language: dict[str, CodebookCounter] = defaultdict(lambda: CodebookCounter(sizes))
        self._speakers, self._content = SpeakerProber(), ContentProber()
        self._n_texts = 0
        self.ids: dict[str, int] = {}  # in the order of the rows
        self._about: list[tuple[str, str | None, str | None]] = []  # dataset, language, speaker
        self._seconds: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._n_bits: dict[str, int] = defaultdict(int)
        self._equal: list[tuple[tuple[int, ...] | None, int]] = []  # equal codes by codebook, frames

    def add(self, row: Row) -> None:
        n_before = len(self._seconds)
        self.ids[row.id] = n_before
        self._about.append((row.dataset, row.language, row.speaker))
        self._seconds.append(row.seconds)
        self._bounds.append(row.snr_bounds_db)
        for system, values in row.scores.items():
            for name, value in values.items():
                column = self._scores[system][name]
                column.extend([math.nan] * (n_before - len(column)))  # a score that earlier rows do not have
                column.append(value)
        for system, n_bits in row.n_bits.items():
            self._n_bits[system] += n_bits
        codes = torch.from_numpy(row.codes.astype(np.int64))[None]  # [1, K, T]
        self._counter.update(codes)
        if row.language is not None:
            self._by_language[row.language].update(codes)
        latents = latents_of(self._codec, row.codes)
        self._speakers.add(row.speaker, latents)
        self._content.add(latents, row.envelope)
        self._n_texts += row.has_text
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
        codebooks = self._counter.stats()
        return Validation(
            source=source,
            n_utterances=len(self.ids),
            n_missing=n_missing,
            seconds=seconds,
            bitrate_kbps=self._n_bits[CODEC] / seconds / 1000,
            snr_bounds_db=(mean_of_defined(b[0] for b in self._bounds), mean_of_defined(b[1] for b in self._bounds)),
            systems=tuple(
                System(
                    name,
                    label_of(name, self._codec.n_codebooks),
                    self._n_bits[name] / seconds / 1000 if name in self._n_bits else None,
                    self._means(name, slice(None)),
                )
                for name in self._in_order()
            ),
            groups=tuple(self._groups()),
            codebooks=tuple(codebooks),
            histograms=tuple(count.copy() for count in self._counter.counts),
            entropy_coded_kbps=sum(c.coding_bits * c.n_codes for c in codebooks) / seconds / 1000,
            delays=delays,
            worst=self._worst(),
            speaker_probe=self._speakers.result(),
            content_probe=self._content.result(),
            n_texts=self._n_texts,
            comparison=self._comparison(),
            not_measured=not_measured,
            failed=failed,
        )

    def _in_order(self) -> list[str]:
        """The codec first, then the others in order; the original last, if it has scores."""
        names = [name for name in self._scores if name not in (CODEC, ORIGINAL) and self._scores[name]]
        return [CODEC, *names, *([ORIGINAL] if self._scores.get(ORIGINAL) else [])]

    def _table(self, system: str) -> tuple[list[str], NDArray[np.float64]]:
        """Metric names and scores [N, M]."""
        names = [name for name in METRICS if name in self._scores[system]]
        table = np.full((len(self._seconds), len(names)), math.nan)
        for i, name in enumerate(names):
            column = self._scores[system][name]
            table[: len(column), i] = column
        return names, table

    def _means(self, system: str, which: Sequence[int] | slice) -> dict[str, Mean]:
        names, table = self._table(system)
        return dict(zip(names, means(table[which]), strict=True)) if names else {}

    def _groups(self) -> list[Group]:
        """By dataset, language and speaker, where the utterances differ in it."""
        groups = []
        for place, kind in enumerate(("dataset", "language", "speaker")):
            members: dict[str, list[int]] = defaultdict(list)
            for i, about in enumerate(self._about):
                members[about[place] or "unknown"].append(i)
            for name in sorted(members if len(members) > 1 else ()):
                which = members[name]
                seconds = sum(self._seconds[i] for i in which)
                counter = self._by_language.get(name) if kind == "language" else None
                codebooks = tuple(counter.stats()) if counter else ()
                groups.append(Group(kind, name, len(which), seconds, self._means(CODEC, which), codebooks))
        return groups

    def _worst(self) -> dict[str, list[tuple[str, float]]]:
        names, table = self._table(CODEC)
        ids = list(self.ids)
        worst = {}
        for name, column in zip(names, table.T, strict=True):
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
