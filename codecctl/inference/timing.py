"""Measures the speed of encoding and decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from codecctl.audio.files import read_audio
from codecctl.inference.load import Codec
from codecctl.model.causal import StreamState

_RUNS = 5
_STREAM_FRAMES = 100  # measured, after as many for warm-up


def measure(codec: Codec, seconds: float) -> dict[str, float]:
    """Real-time factors of encoding and decoding `seconds` of speech, medians; milliseconds for one frame of a stream,
    the median and the maximum of a hundred."""
    audio = _speech(codec, seconds).to(next(codec.buffers()).device)
    codes = codec.encode(audio)
    length = audio.shape[-1] / codec.sample_rate
    frame_ms = {"encode": _stream(codec, audio, codes, is_encoder=True), "decode": _stream(codec, audio, codes)}
    return {
        "encode_real_time_factor": _median(lambda: codec.encode(audio)) / length,
        "decode_real_time_factor": _median(lambda: codec.decode(codes)) / length,
        **{f"{name}_frame_ms": statistics.median(each) for name, each in frame_ms.items()},
        **{f"{name}_frame_slowest_ms": max(each) for name, each in frame_ms.items()},
        "latency_ms": 1000 * (codec.hop_length + codec.config.delay) / codec.sample_rate,
    }


def _speech(codec: Codec, seconds: float) -> Tensor:
    """[1, 1, L] of bundled speech, repeated to the length, in whole frames."""
    import codecctl

    clip = Path(codecctl.__file__).parent / "assets" / "clips" / "en-allison" / "vm-forward.flac"
    samples = torch.from_numpy(read_audio(clip)[0])  # [1, L]
    n_samples = max(1, round(seconds * codec.frame_rate)) * codec.hop_length
    return samples.repeat(1, -(-n_samples // samples.shape[-1]))[None, :, :n_samples]


def _median(run: Callable[[], object]) -> float:
    """Seconds."""
    run()
    return statistics.median(_timed(run) for _ in range(_RUNS))


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _stream(codec: Codec, audio: Tensor, codes: Tensor, *, is_encoder: bool = False) -> list[float]:
    """Milliseconds for each frame, coded alone as in a live call."""
    state, n_frames, times = StreamState(), codes.shape[-1], []
    for t in range(2 * _STREAM_FRAMES):
        i = t % n_frames
        frame = audio[..., i * codec.hop_length : (i + 1) * codec.hop_length]
        code = codes[..., i : i + 1]
        step = (lambda: codec.encode(frame, state=state)) if is_encoder else (lambda: codec.decode(code, state=state))  # noqa: B023
        times.append(1000 * _timed(step))
    return times[_STREAM_FRAMES:]
