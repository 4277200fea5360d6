"""The result of an evaluation: means with their intervals by system and group, codebooks, the worst utterances."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
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
    checkpoint: str = "the other checkpoint"  # its path, where it has one
    fingerprint: str | None = None


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
        return {name: score.mean for name, score in self.systems[0].metrics.items()}

    def system(self, name: str) -> System | None:
        return next((system for system in self.systems if system.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """For `files.to_json`."""
        facts = asdict(self)
        del facts["histograms"]
        facts["snr_bound_db"], facts["snr_bound_even_db"] = facts.pop("snr_bounds_db")
        facts["delays_samples"], facts["against"] = facts.pop("delays"), facts.pop("comparison")
        facts["systems"] = {system.pop("name"): system for system in facts["systems"]}
        return {**facts, "n_failed": len(self.failed), "metrics": self.means}


class Tally:
    """Keeps the scores of each utterance, without its codes, which are counted."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        sizes = codec.config.quantizer.codebook_sizes
        self._counter = CodebookCounter(sizes, pairs=True)
        self._by_language: dict[str, CodebookCounter] = defaultdict(lambda: CodebookCounter(sizes))
        self._speakers, self._content = SpeakerProber(), ContentProber()
        self._n_frames = 0
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        codes = torch.from_numpy(row.codes.astype(np.int64))[None]  # [1, K, T]
        self._counter.update(codes)
        if row.language is not None:
            self._by_language[row.language].update(codes)
        latents = latents_of(self._codec, row.codes)
        self._speakers.add(row.speaker, latents)
        self._content.add(latents, row.envelope)
        self._n_frames += codes.shape[-1]
        self.rows.append(replace(row, codes=np.zeros((0, 0), np.uint16), envelope=np.zeros((0, 0), np.int8)))

    def result(
        self,
        *,
        source: str,
        n_missing: int,
        delays: dict[str, float],
        not_measured: dict[str, str],
        failed: dict[str, str],
    ) -> Validation:
        rows = self.rows
        seconds = sum(row.seconds for row in rows)
        free, even = zip(*(row.snr_bounds_db for row in rows), strict=True)
        codebooks = self._counter.stats()
        systems = tuple(self._system(name, seconds) for name in self._in_order())
        return Validation(
            source=source,
            n_utterances=len(rows),
            n_missing=n_missing,
            seconds=seconds,
            bitrate_kbps=systems[0].bitrate_kbps or 0.0,
            snr_bounds_db=(mean_of_defined(free), mean_of_defined(even)),
            systems=systems,
            groups=tuple(self._groups()),
            codebooks=tuple(codebooks),
            histograms=tuple(count.copy() for count in self._counter.counts),
            entropy_coded_kbps=sum(c.coding_bits * c.n_codes for c in codebooks) / seconds / 1000,
            delays=delays,
            worst=self._worst(),
            speaker_probe=self._speakers.result(),
            content_probe=self._content.result(),
            n_texts=sum(row.has_text for row in rows),
            comparison=self._comparison(),
            not_measured=not_measured,
            failed=failed,
        )

    def _in_order(self) -> list[str]:
        """The codec first, then the others in order; the original last, if it has scores."""
        names = dict.fromkeys(name for row in self.rows for name in row.scores)
        return sorted(names, key=lambda name: (name != CODEC, name == ORIGINAL))

    def _system(self, name: str, seconds: float) -> System:
        label = f"codec, {self._codec.n_codebooks} codebooks" if name == CODEC else label_of(name)
        n_bits = [row.n_bits[name] for row in self.rows if name in row.n_bits]
        names, table = self._table(name)
        metrics = dict(zip(names, means(table), strict=True))
        return System(name, label, sum(n_bits) / seconds / 1000 if n_bits else None, metrics)

    def _table(self, system: str) -> tuple[list[str], NDArray[np.float64]]:
        """Metric names and scores [N, M]; NaN for a score that an utterance does not have."""
        scores = [row.scores.get(system, {}) for row in self.rows]
        names = [name for name in METRICS if any(name in of_row for of_row in scores)]
        return names, np.array([[of_row.get(name, math.nan) for name in names] for of_row in scores], np.float64)

    def _groups(self) -> list[Group]:
        """By dataset, language and speaker, where the utterances differ in it."""
        names, table = self._table(CODEC)
        groups = []
        for kind in ("dataset", "language", "speaker"):
            members: dict[str, list[int]] = defaultdict(list)
            for i, row in enumerate(self.rows):
                members[getattr(row, kind) or "unknown"].append(i)
            for name in sorted(members if len(members) > 1 else ()):
                which = members[name]
                seconds = sum(self.rows[i].seconds for i in which)
                counter = self._by_language.get(name) if kind == "language" else None
                codebooks = tuple(counter.stats()) if counter else ()
                metrics = dict(zip(names, means(table[which]), strict=True))
                groups.append(Group(kind, name, len(which), seconds, metrics, codebooks))
        return groups

    def _worst(self) -> dict[str, list[tuple[str, float]]]:
        names, table = self._table(CODEC)
        worst = {}
        for name, column in zip(names, table.T, strict=True):
            badness = -column if METRICS[name].higher_is_better else column
            order = [int(i) for i in np.argsort(-badness, kind="stable") if not math.isnan(column[i])]
            worst[name] = [(self.rows[i].id, float(column[i])) for i in order[:N_WORST]]
        return worst

    def _comparison(self) -> Comparison | None:
        names, table = self._table(CODEC)
        other_names, other = self._table(AGAINST)
        shared = [name for name in names if name in other_names]
        if not shared:
            return None
        columns = [table[:, names.index(name)] - other[:, other_names.index(name)] for name in shared]
        differences = dict(zip(shared, means(np.stack(columns, axis=1)), strict=True))
        equal = [row.n_equal_codes for row in self.rows if row.n_equal_codes is not None]
        shares = tuple((np.sum(equal, axis=0) / self._n_frames).tolist()) if len(equal) == len(self.rows) else None
        return Comparison(differences, shares)
