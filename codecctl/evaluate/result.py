"""The result of an evaluation: means with their intervals by system and group, codebooks, the worst utterances."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codecctl.evaluate.codebooks import CodebookStats
from codecctl.evaluate.intervals import Mean
from codecctl.evaluate.probe import ContentProbe, SpeakerProbe


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
