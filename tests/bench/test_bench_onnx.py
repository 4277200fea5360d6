"""ONNX files in onnxruntime beside torch: ten minutes of a stream without drift, and the speed of both in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch

from codecctl.export.onnx import write_onnx
from codecctl.export.onnx_codec import OnnxCodec
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec

pytestmark = pytest.mark.bench
_SECONDS = 600
Result = TypeVar("Result")


@torch.no_grad()
def test_ten_minutes_of_a_stream(tmp_path: Path, speech_files: list[Path], record: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    write_onnx(Checkpoint.read(find_checkpoint("starter")), tmp_path / "onnx")
    codec, files = Codec.load("starter", "cpu"), OnnxCodec(tmp_path / "onnx")
    rate, hop = codec.sample_rate, codec.hop_length
    clips = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in speech_files])
    audio = np.resize(clips, _SECONDS * rate).reshape(1, 1, -1)
    codes, seconds = _timed(lambda: codec.encode(torch.from_numpy(audio)))
    decoded, decode_seconds = _timed(lambda: codec.decode(codes).numpy())
    record(f"torch, whole: real_time_factor {seconds / _SECONDS:.3f} / {decode_seconds / _SECONDS:.3f}")

    encoder, decoder = files.stream_encoder(), files.stream_decoder()
    frames = np.split(audio, audio.shape[-1] // hop, axis=-1)
    streamed, seconds = _timed(lambda: np.concatenate([encoder.push(frame) for frame in frames], axis=-1))
    each = np.split(codes.numpy(), codes.shape[-1], axis=-1)
    late, decode_seconds = _timed(lambda: np.concatenate([decoder.push(one) for one in each], axis=-1))
    record(f"ONNX, frame by frame: real_time_factor {seconds / _SECONDS:.3f} / {decode_seconds / _SECONDS:.3f}")
    different = (streamed != codes.numpy()).any(axis=(0, 1))
    decoded = decoded[..., : decoded.shape[-1] - codec.config.delay]
    last_minute = np.abs(late[..., codec.config.delay :] - decoded)[..., -60 * rate :].max()
    record(f"{different.sum()} of {len(different)} frames differ; audio of the last minute within {last_minute:.1e}")
    assert different.mean() < 1e-3  # ties
    assert last_minute < 1e-4

    minute = audio[..., : 60 * rate]
    _, seconds = _timed(lambda: files.encode(minute))
    _, decode_seconds = _timed(lambda: files.decode(codes[..., : 60 * rate // hop].numpy()))
    record(f"ONNX, whole: real_time_factor {seconds / 60:.3f} / {decode_seconds / 60:.3f}")


def _timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """The result, and the seconds of this process's CPU."""
    start = time.process_time()
    return run(), time.process_time() - start
