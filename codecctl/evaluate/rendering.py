"""An utterance through the codec and the systems that it is compared with: Opus, a band limit, parts of the codec."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from torch import Tensor

from codecctl.audio import Audio, pyav
from codecctl.audio.files import to_pcm16
from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError
from codecctl.evaluate.alignment import align, find_delay
from codecctl.evaluate.perceptual import installed, reads_text
from codecctl.evaluate.rows import Codes
from codecctl.evaluate.systems import AGAINST, BAND_LIMITED, CODEC, FEWER, LATER, UNQUANTIZED, is_part, opus_name

if TYPE_CHECKING:
    from codecctl.evaluate.utterances import ReferenceUtterance
    from codecctl.model.codec import Codec

_BAND_HZ = 4000
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz that the encoder takes
_OPUS_FRAME_SECONDS = 0.02
N_KEPT = 8  # utterances whose first chunk stays in memory: delays are found on them, and the report plays some
_DELAY_SECONDS = 10  # of each


@dataclass(frozen=True)
class Rendition:
    """The output of one system."""

    audio: Audio  # [L], not aligned; may be shorter than the original by the system's delay
    n_bits: int | None  # None: the system has no bitrate


@dataclass(frozen=True)
class Plan:
    """What is rendered of each utterance, and which perceptual metrics are computed. The default: the codec alone."""

    metrics: tuple[str, ...] = ()
    recogniser: str | None = None  # where one of the metrics needs it
    opus_kbps: tuple[float, ...] = ()
    baselines: bool = False  # the codec with its quantizer off, a band limit; also the SNR bound and the envelope
    parts: bool = False  # the codec with all codebooks but the first
    curve: tuple[int, ...] = ()  # the codec with so many codebooks

    @classmethod
    def of(cls, codec: Codec, config: ValidateConfig, *, baselines: bool = True, parts: bool = False) -> Plan:
        """What the config asks for and the installed packages can do.

        Raises `ConfigError` for an unknown metric, `UsageError` for a folder that holds no recogniser.
        """
        metrics = installed(config)
        recogniser = config.recogniser if reads_text(metrics) else None
        opus_kbps = config.opus_kbps if baselines and pyav.is_installed() else ()
        curve = tuple(sorted(n for n in set(config.n_quantizers) if n < codec.n_codebooks)) if parts else ()
        return cls(metrics, recogniser, opus_kbps, baselines, parts, curve)


_CODEC_ALONE = Plan()


@torch.inference_mode()
def render_codec(codec: Codec, audio: Tensor, plan: Plan = _CODEC_ALONE) -> tuple[Tensor, dict[str, Rendition]]:
    """Audio [1, 1, L] -> codes [1, K, T] and the outputs of the codec and its parts by system."""
    length = audio.shape[-1]
    latents = codec.encode_latents(audio)
    codes = codec.quantize(latents)
    n_frames = codes.shape[-1]
    bits = codec.config.bits_per_code
    made = {CODEC: _rendition(codec.decode(codes, length=length), n_frames * sum(bits))}
    if plan.baselines:
        made[UNQUANTIZED] = _rendition(codec.decode_latents(latents, length=length), None)
    for n in plan.curve:
        made[f"{FEWER}{n}"] = _rendition(codec.decode(codes[:, :n], length=length), n_frames * sum(bits[:n]))
    if plan.parts and codec.n_codebooks > 1:
        without_first = codec.dequantize(codes) - codec.dequantize(codes[:, :1])
        rest = codec.decode_latents(without_first, length=length)
        made[f"{LATER}{codec.n_codebooks}"] = _rendition(rest, n_frames * sum(bits[1:]))
    return codes, made


def band_limit(audio: Audio, sample_rate: int) -> Audio:
    """[L] -> [L] without frequencies above 4 kHz; no delay."""
    narrow = soxr.resample(audio, sample_rate, 2 * _BAND_HZ, quality="VHQ")
    wide = soxr.resample(narrow, 2 * _BAND_HZ, sample_rate, quality="VHQ")
    return np.pad(wide, (0, max(0, len(audio) - len(wide))))[: len(audio)].astype(np.float32)


def opus(audio: Audio, sample_rate: int, kbps: float) -> Rendition:
    """[L] through libopus in speech mode, variable rate, 20 ms packets. Bits are those of the packets, no container.

    The decoder's delay, about 4 ms, is left in; `alignment` removes it as for any codec.
    """
    av: Any = importlib.import_module("av")  # optional, and typed only in part
    rate = sample_rate if sample_rate in _OPUS_RATES else 48000
    audio_in = audio if rate == sample_rate else soxr.resample(audio, sample_rate, rate, quality="HQ")
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    encoder.bit_rate, encoder.time_base = round(kbps * 1000), Fraction(1, rate)
    encoder.options = {"application": "voip", "vbr": "on", "frame_duration": "20"}
    encoder.open()
    packets, n_packet = [], round(rate * _OPUS_FRAME_SECONDS)
    # Whole packets; one more than the signal fills, to flush the decoder's delay.
    samples = np.pad(to_pcm16(audio_in), (0, -len(audio_in) % n_packet + n_packet))
    for start in range(0, len(samples), n_packet):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + n_packet], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.extradata = 48000, encoder.extradata
    decoded = np.concatenate([frame.to_ndarray()[0] for packet in packets for frame in decoder.decode(packet)])
    back = soxr.resample(decoded.astype(np.float32) / 32768, 48000, sample_rate, quality="HQ")
    return Rendition(back[: len(audio)], 8 * sum(packet.size for packet in packets))


def _rendition(audio: Tensor, n_bits: int | None) -> Rendition:
    """Clipped at full scale, as in a file."""
    return Rendition(audio[0, 0].float().clamp(-1, 1).cpu().numpy(), n_bits)


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
            # Parts of the codec have its delay, systems without an entry none.
            system: align(self.original, rendition.audio, delays.get(CODEC if is_part(system) else system, 0.0))
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
            kept = None if number else self._kept.get(utterance.id)
            rendering = kept or self.render(audio)
            if not number and utterance.id in self.keep:
                self._kept[utterance.id] = rendering
            yield rendering

    def render_start(self, utterance: ReferenceUtterance, n_samples: int) -> Rendering:
        """At least the first `n_samples` of an utterance, or all of it. Raises `CodecctlError` if it cannot be read."""
        kept = self._kept.get(utterance.id)
        return kept or self.render(next(utterance.chunks(self.sample_rate))[:, :n_samples])

    def render(self, audio: Tensor) -> Rendering:
        """[1, L] at the codec's rate -> every system's output."""
        plan, on_device = self.plan, audio.to(self.device)[None]  # [1, 1, L]
        codes, made = render_codec(self.codec, on_device, plan)
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
        """The delay in samples of each system that has one of its own, found on these utterances."""
        pairs: dict[str, list[tuple[Audio, Audio]]] = defaultdict(list)
        n_samples = _DELAY_SECONDS * self.sample_rate
        for utterance in utterances:
            try:
                rendering = next(self.chunks(utterance))
            except CodecctlError:  # reported when it is scored
                continue
            for system, rendition in rendering.renditions.items():
                if system != BAND_LIMITED and not is_part(system):
                    pairs[system].append((rendering.original[:n_samples], rendition.audio[:n_samples]))
        return {system: find_delay(made, self.sample_rate) for system, made in sorted(pairs.items())}


def _equal_codes(codes: Tensor, other: Tensor) -> tuple[int, ...] | None:
    """The number of equal codes [1, K, T] by codebook; None if the numbers of frames differ."""
    if codes.shape[-1] != other.shape[-1]:
        return None
    n_codebooks = min(codes.shape[1], other.shape[1])
    return tuple((codes[:, :n_codebooks] == other[:, :n_codebooks]).sum(dim=(0, 2)).tolist())
