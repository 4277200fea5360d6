"""An utterance through the codec and through the systems that it is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from codecctl.audio.files import Audio
from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError
from codecctl.evaluate.alignment import align, find_delay
from codecctl.evaluate.baselines import (
    AGAINST,
    BAND_LIMITED,
    CODEC,
    Rendition,
    band_limit,
    curve_of,
    has_opus,
    is_part,
    opus,
    opus_name,
    render_codec,
)
from codecctl.evaluate.perceptual import installed, reads_text
from codecctl.evaluate.rows import Codes
from codecctl.evaluate.utterances import ReferenceUtterance, choose
from codecctl.model.codec import Codec

N_KEPT = 8  # utterances whose first chunk stays in memory: delays are found on them, and the report plays some
_DELAY_SECONDS = 10  # of each


@dataclass(frozen=True)
class Plan:
    """What is rendered of each utterance, and which perceptual metrics are computed. The default: the codec alone."""

    metrics: tuple[str, ...] = ()
    recogniser: str | None = None  # where one of the metrics needs it
    opus_kbps: tuple[float, ...] = ()
    baselines: bool = False  # the codec with its quantizer off, a band limit; also the SNR bound and the envelope
    parts: bool = False  # the codec with some of its codebooks
    curve: tuple[int, ...] = ()  # numbers of codebooks, where `parts`

    @classmethod
    def of(cls, codec: Codec, config: ValidateConfig, *, baselines: bool = True, parts: bool = False) -> Plan:
        """What the config asks for and the installed packages can do.

        Raises `ConfigError` for an unknown metric, `UsageError` for a folder that holds no recogniser.
        """
        metrics = installed(config)
        recogniser = config.recogniser if reads_text(metrics) else None
        opus_kbps = config.opus_kbps if baselines and has_opus() else ()
        return cls(metrics, recogniser, opus_kbps, baselines, parts, curve_of(codec, config) if parts else ())


@dataclass(frozen=True)
class Rendering:
    """A chunk of an utterance through every system."""

    original: Audio  # [L]
    renditions: dict[str, Rendition]
    codes: Codes  # [K, T]
    n_equal_codes: tuple[int, ...] | None  # by codebook, against the other checkpoint

    def aligned(self, delays: dict[str, float]) -> dict[str, tuple[Audio, Audio]]:
        """Reference and decoded [L'] by system, the delays (in samples) removed."""
        return {
            system: align(self.original, rendition.audio, delay_of(system, delays))
            for system, rendition in self.renditions.items()
        }


class Renderer:
    """Renders utterances. The first chunks of the utterances named in `keep` are rendered once and stay in memory.

    Raises `CodecctlError` if the two codecs have different sample rates.
    """

    def __init__(self, codec: Codec, plan: Plan, against: Codec | None = None) -> None:
        if against is not None and against.sample_rate != codec.sample_rate:
            raise CodecctlError(f"cannot compare codecs of {codec.sample_rate} and {against.sample_rate} Hz")
        self.codec, self.plan, self.against = codec, plan, against
        self.sample_rate = codec.sample_rate
        self.device = next(codec.parameters()).device
        self.keep: set[str] = set()
        self._kept: dict[str, Rendering] = {}

    def chunks(self, utterance: ReferenceUtterance) -> Iterator[Rendering]:
        """The utterance, chunk by chunk. Raises `CodecctlError` if it cannot be read."""
        for number, audio in enumerate(utterance.chunks(self.sample_rate)):
            yield self.render(audio) if number else self._render_first(utterance.id, audio)

    def _render_first(self, name: str, audio: Tensor) -> Rendering:
        rendering = self._kept.get(name) or self.render(audio)
        if name in self.keep:
            self._kept[name] = rendering
        return rendering

    def render_start(self, utterance: ReferenceUtterance, n_samples: int) -> Rendering:
        """At least the first `n_samples` of an utterance, or all of it. Raises `CodecctlError` if it cannot be read."""
        kept = self._kept.get(utterance.id)
        return kept or self.render(next(utterance.chunks(self.sample_rate))[:, :n_samples])

    def render(self, audio: Tensor) -> Rendering:
        """[1, L] at the codec's rate -> every system's output."""
        plan, on_device = self.plan, audio.to(self.device)[None]  # [1, 1, L]
        codes, made = render_codec(
            self.codec, on_device, unquantized=plan.baselines, parts=plan.parts, curve=plan.curve
        )
        equal = None
        if self.against is not None:
            other_codes, other = render_codec(self.against, on_device)
            made[AGAINST] = other[CODEC]
            equal = _equal_codes(codes, other_codes)
        original = audio[0].numpy()
        for kbps in plan.opus_kbps:
            made[opus_name(kbps)] = opus(original, self.sample_rate, kbps)
        if plan.baselines:
            made[BAND_LIMITED] = Rendition(band_limit(original, self.sample_rate), None)
        return Rendering(original, made, codes[0].cpu().numpy().astype(np.uint16), equal)

    def find_delays(self, utterances: Sequence[ReferenceUtterance]) -> dict[str, float]:
        """The delay in samples of each system that has one of its own, found on some of the utterances."""
        pairs: dict[str, list[tuple[Audio, Audio]]] = defaultdict(list)
        n_samples = _DELAY_SECONDS * self.sample_rate
        for utterance in choose(utterances, N_KEPT):
            try:
                rendering = next(self.chunks(utterance))
            except CodecctlError:  # reported when it is scored
                continue
            for system, rendition in rendering.renditions.items():
                if system != BAND_LIMITED and not is_part(system):
                    pairs[system].append((rendering.original[:n_samples], rendition.audio[:n_samples]))
        return {system: find_delay(made, self.sample_rate) for system, made in sorted(pairs.items())}


def delay_of(system: str, delays: dict[str, float]) -> float:
    """In samples; parts of the codec have the codec's delay, systems without an entry none."""
    return delays.get(CODEC if is_part(system) else system, 0.0)


def _equal_codes(codes: Tensor, other: Tensor) -> tuple[int, ...] | None:
    """The number of equal codes [1, K, T] by codebook; None if the numbers of frames differ."""
    if codes.shape[-1] != other.shape[-1]:
        return None
    n_codebooks = min(codes.shape[1], other.shape[1])
    return tuple((codes[:, :n_codebooks] == other[:, :n_codebooks]).sum(dim=(0, 2)).tolist())
