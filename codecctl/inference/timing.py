"""Measures the speed of encoding and decoding, by the codec and by others on the same machine."""

from __future__ import annotations

import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecctl.audio.files import AudioWriter, read_audio
from codecctl.inference.load import Codec

_RUNS = 5
_PEER_CODEBOOKS = 8
_STREAM_FRAMES = 300  # measured, after enough to fill the look-back


def measure(codec: Codec, seconds: float) -> dict[str, float]:
    """Real-time factors of encoding and decoding `seconds` of speech, medians; percentiles of the milliseconds for one
    frame of a stream, and of its way through both; how many such streams one core carries both ways."""
    audio = speech(codec.sample_rate, codec.hop_length, seconds).to(next(codec.buffers()).device)
    codes = codec.encode(audio)
    length = audio.shape[-1] / codec.sample_rate
    encode, decode = _frame_times(codec, audio)
    both = [sum(pair) for pair in zip(encode, decode, strict=True)]
    frame_ms = 1000 * codec.hop_length / codec.sample_rate
    return {
        "encode_real_time_factor": median_seconds(lambda: codec.encode(audio)) / length,
        "decode_real_time_factor": median_seconds(lambda: codec.decode(codes)) / length,
        **_percentiles("encode_frame_ms", encode),
        **_percentiles("decode_frame_ms", decode),
        **_percentiles("both_ways_frame_ms", both),
        "streams_per_core": frame_ms / statistics.fmean(both),
        "latency_ms": frame_ms + 1000 * codec.config.delay / codec.sample_rate,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_peers(seconds: float) -> dict[str, dict[str, float]]:
    """The real-time factors of codecs of `transformers` for so many seconds, by name. Their weights are random, which
    changes no time."""
    return {name: _measure_peer(model, seconds) for name, model in _peers()}


def _peers() -> Iterator[tuple[str, Any]]:
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield "EnCodec 24 kHz", transformers.EncodecModel(transformers.EncodecConfig())
    yield "Mimi, 8 codebooks", transformers.MimiModel(transformers.MimiConfig())
    yield "DAC 16 kHz", transformers.DacModel(transformers.DacConfig(sampling_rate=16000, n_codebooks=12))


@torch.inference_mode()
def _measure_peer(model: Any, seconds: float) -> dict[str, float]:
    model.eval()
    rate = model.config.sampling_rate
    audio = speech(rate, 1, seconds)
    options = {"num_quantizers": _PEER_CODEBOOKS} if "Mimi" in type(model).__name__ else {}
    encoded = model.encode(audio, **options)
    scales = {"audio_scales": encoded.audio_scales} if "Encodec" in type(model).__name__ else {}
    named = {"audio_codes": encoded.audio_codes, **scales}
    return {
        "encode_real_time_factor": median_seconds(lambda: model.encode(audio, **options)) * rate / audio.shape[-1],
        "decode_real_time_factor": median_seconds(lambda: model.decode(**named)) * rate / audio.shape[-1],
    }


def start_up_seconds(checkpoint: Path) -> float:
    """Of a new process that encodes one second of speech."""
    with tempfile.TemporaryDirectory(prefix="codecctl-") as folder:
        clip = Path(folder, "second.wav")
        with AudioWriter(clip, 16000) as writer:
            writer.write(speech(16000, 16000, 1)[0].numpy())
        command = [sys.executable, "-m", "codecctl.cli.main", "encode", str(clip), "-o", f"{folder}/codes.npy"]
        run = [*command, "--checkpoint", str(checkpoint), "--device", "cpu"]
        return _timed(lambda: subprocess.run(run, check=True, stderr=subprocess.DEVNULL))


def speech(sample_rate: int, hop_length: int, seconds: float) -> Tensor:
    """[1, 1, L] of bundled speech, repeated to the length, in whole frames. It is not resampled."""
    import codecctl

    clip = Path(codecctl.__file__).parent / "assets" / "clips" / "en-allison" / "vm-forward.flac"
    samples = torch.from_numpy(read_audio(clip)[0])  # [1, L]
    n_samples = max(1, round(seconds * sample_rate / hop_length)) * hop_length
    return samples.repeat(1, -(-n_samples // samples.shape[-1]))[None, :, :n_samples]


@torch.inference_mode()
def median_seconds(run: Callable[[], object]) -> float:
    run()
    return statistics.median(_timed(run) for _ in range(_RUNS))


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _frame_times(codec: Codec, audio: Tensor) -> tuple[list[float], list[float]]:
    """Milliseconds to encode and to decode each frame, coded alone as in a live call."""
    encoder, decoder = codec.stream_encoder(traced=True), codec.stream_decoder(traced=True)
    n_before = codec.config.transformer.look_back_frames
    whole = audio.repeat(1, 1, -(-n_before * codec.hop_length // audio.shape[-1]))
    decoder.push(encoder.push(whole))
    frames = torch.split(audio, codec.hop_length, dim=-1)
    encode, decode = [], []
    for t in range(_STREAM_FRAMES + 10):
        started = time.perf_counter()
        codes = encoder.push(frames[t % len(frames)]).cpu()
        encoded = time.perf_counter()
        decoder.push(codes).cpu()
        encode.append(1000 * (encoded - started))
        decode.append(1000 * (time.perf_counter() - encoded))
    return encode[10:], decode[10:]


def _percentiles(name: str, times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {f"{name}_p{n}": cuts[n - 1] for n in (50, 95, 99)}
