"""The systems that a codec is compared with: Opus, a band limit, and parts of the codec itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio.files import Audio, to_pcm16
from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.perceptual import ORIGINAL
from codecctl.model.codec import Codec

CODEC, UNQUANTIZED, BAND_LIMITED, AGAINST = "codec", "unquantized", "lowpass_4khz", "against"
_FEWER, _LATER, _OPUS = "n_quantizers_", "codebooks_2_to_", "opus_"  # names end with a number
_BAND_HZ = 4000
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz that the encoder takes
_OPUS_FRAME_SECONDS = 0.02


@dataclass(frozen=True)
class Rendition:
    """The output of one system."""

    audio: Audio  # [L], not aligned; may be shorter than the original by the system's delay
    n_bits: int | None  # None: the system has no bitrate


def label_of(system: str, n_codebooks: int) -> str:
    """A system's name for people."""
    if system == CODEC:
        return f"codec, {n_codebooks} codebooks"
    if system.startswith(_LATER):
        return f"codec, codebooks 2 to {system.removeprefix(_LATER)} only"
    if system.startswith(_FEWER):
        n = system.removeprefix(_FEWER)
        return f"codec, {n} codebook" + "s" * (n != "1")
    if is_opus(system):
        return f"Opus {system.removeprefix(_OPUS)} kbps"
    return {
        UNQUANTIZED: "codec, quantizer off",
        BAND_LIMITED: "original below 4 kHz",
        AGAINST: "the other checkpoint",
        ORIGINAL: "original",
    }[system]


def opus_name(kbps: float) -> str:
    return f"{_OPUS}{kbps:g}"


def is_opus(system: str) -> bool:
    return system.startswith(_OPUS)


def is_fewer_codebooks(system: str) -> bool:
    """Whether a system is the codec with its first codebooks only: a point of the curve."""
    return system.startswith(_FEWER)


def is_part(system: str) -> bool:
    """Whether a system is a part of the codec, and so has its delay."""
    return system == UNQUANTIZED or system.startswith((_FEWER, _LATER))


def curve_of(codec: Codec, config: ValidateConfig) -> tuple[int, ...]:
    """The numbers of codebooks, below all of them, at which the curve over codebooks is measured."""
    return tuple(sorted(n for n in set(config.n_quantizers) if n < codec.n_codebooks))


def has_opus() -> bool:
    return importlib.util.find_spec("av") is not None


@torch.inference_mode()
def render_codec(
    codec: Codec, audio: Tensor, *, unquantized: bool = False, parts: bool = False, curve: Sequence[int] = ()
) -> tuple[Tensor, dict[str, Rendition]]:
    """Audio [1, 1, L] -> codes [1, K, T] and the outputs of the codec by system.

    `unquantized` adds the codec with the quantizer off; `parts` the codec with the first n codebooks for each n of
    `curve`, and with all codebooks but the first.
    """
    length = audio.shape[-1]
    latents = codec.encode_latents(audio)
    codes = codec.quantize(latents)
    n_frames = codes.shape[-1]
    bits = [size.bit_length() - 1 for size in codec.config.quantizer.codebook_sizes]
    made = {CODEC: _rendition(codec.decode(codes, length=length), n_frames * sum(bits))}
    if unquantized:
        made[UNQUANTIZED] = _rendition(codec.decode_latents(latents, length=length), None)
    for n in curve if parts else ():
        made[f"{_FEWER}{n}"] = _rendition(codec.decode(codes[:, :n], length=length), n_frames * sum(bits[:n]))
    if parts and codec.n_codebooks > 1:
        without_first = codec.dequantize(codes) - codec.dequantize(codes[:, :1])
        rest = codec.decode_latents(without_first, length=length)
        made[f"{_LATER}{codec.n_codebooks}"] = _rendition(rest, n_frames * sum(bits[1:]))
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
    packets = []
    for start, packet in _packets_of(to_pcm16(audio_in), round(rate * _OPUS_FRAME_SECONDS)):
        frame = av.AudioFrame.from_ndarray(packet[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.extradata = 48000, encoder.extradata
    decoded = np.concatenate([frame.to_ndarray()[0] for packet in packets for frame in decoder.decode(packet)])
    back = soxr.resample(decoded.astype(np.float32) / 32768, 48000, sample_rate, quality="HQ")
    return Rendition(back[: len(audio)], 8 * sum(packet.size for packet in packets))


def _packets_of(samples: NDArray[np.int16], n_packet: int) -> list[tuple[int, NDArray[np.int16]]]:
    """(first sample, samples) of whole packets; one more than the signal fills, to flush the decoder's delay."""
    padded = np.pad(samples, (0, -len(samples) % n_packet + n_packet))
    return [(start, padded[start : start + n_packet]) for start in range(0, len(padded), n_packet)]


def _rendition(audio: Tensor, n_bits: int | None) -> Rendition:
    """Clipped at full scale, as in a file."""
    return Rendition(audio[0, 0].float().clamp(-1, 1).cpu().numpy(), n_bits)
