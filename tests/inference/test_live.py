"""Pipes: what comes out is that of files, comes out at once, and damage costs the damaged frames only."""

from __future__ import annotations

import copy
import io
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codecctl.bitstream import read_header
from codecctl.config.model import ModelConfig
from codecctl.errors import CodecctlError
from codecctl.inference.live import Live, _record, decode_live, encode_live
from codecctl.inference.load import Codec, save_codec
from tests.conftest import TINY_REFINED, lively

RECORD_BYTES = 1 + 2 + 2 + 2  # 13 bits of the three codebooks
HEADER_BYTES = 44


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(0).integers(-8000, 8000, 1234).astype("<i2")


@pytest.fixture(scope="module")
def packed(codec: Codec, samples: np.ndarray) -> bytes:
    return encoded(codec, wav(samples))


def wav(samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="WAV")
    return file.getvalue()


def encoded(codec: Codec, source: bytes, rate: int | None = None, n_channels: int = 1) -> bytes:
    sink = io.BytesIO()
    encode_live(codec, io.BytesIO(source), sink, Live(), rate=rate, n_channels=n_channels)
    return sink.getvalue()


def decoded(codec: Codec, packed: bytes) -> tuple[np.ndarray, Live]:
    sink, live = io.BytesIO(), Live()
    decode_live(codec, io.BytesIO(packed), sink, live)
    return np.frombuffer(sink.getvalue()[HEADER_BYTES:], "<i2"), live


def test_there_and_back_is_that_of_files_in_whole_frames(codec: Codec, samples: np.ndarray, packed: bytes) -> None:
    audio, live = decoded(codec, packed)
    whole = codec.decode(codec.encode(torch.from_numpy(samples / np.float32(2**15))[None, None]))
    assert np.abs(audio - 2**15 * whole[0, 0].numpy()).max() <= 1
    assert (live.n_frames, live.n_lost, live.is_complete) == (31, 0, True)
    assert len(packed) == 44 + 31 * RECORD_BYTES + 13


def test_a_codec_with_delay_decodes_the_last_samples_too(tiny: ModelConfig, tmp_path: Path) -> None:
    save_codec(lively(tiny.model_copy(update={"front": TINY_REFINED})), tmp_path / "refined.pt")
    codec = Codec.load(tmp_path / "refined.pt", "cpu")
    audio, live = decoded(codec, encoded(codec, wav(np.zeros(1200, "<i2"))))
    assert (codec.config.delay > 0, live.n_frames, live.n_samples, len(audio)) == (True, 100, 1200, 1200)


def test_raw_samples_of_two_channels_are_mixed(codec: Codec, samples: np.ndarray, packed: bytes) -> None:
    stereo = np.stack([samples, samples], axis=1)
    assert encoded(codec, stereo.tobytes(), 16000, 2) == packed
    assert encoded(codec, wav(stereo)) == packed
    assert encoded(codec, wav(samples / np.float32(2**15), subtype="FLOAT")) == packed


def test_other_rates_are_resampled(codec: Codec, samples: np.ndarray) -> None:
    audio, _ = decoded(codec, encoded(codec, wav(samples, 8000)))
    assert len(audio) == 62 * codec.hop_length  # twice 1234 samples


def test_frames_come_out_before_the_input_ends(codec: Codec) -> None:
    (source, end_in), (end_out, sink) = os.pipe(), os.pipe()
    with os.fdopen(source, "rb") as audio, os.fdopen(sink, "wb") as packed, os.fdopen(end_out, "rb") as out:
        thread = threading.Thread(target=encode_live, args=(codec, audio, packed, Live()), kwargs={"rate": 16000})
        thread.start()
        assert len(out.read(44)) == 44
        for _ in range(3):
            os.write(end_in, bytes(2 * codec.hop_length))
            assert out.read(RECORD_BYTES)[:1] == b"F"  # blocks for ever if the frame waits for the next one
        os.close(end_in)
        assert out.read(13)[:1] == b"E"
        thread.join()


def test_damage_costs_the_damaged_frames_only(codec: Codec, packed: bytes) -> None:
    codec = copy.deepcopy(codec).double()  # in float32 a chunk that is cut elsewhere may differ in the last bit
    start = 44 + 10 * RECORD_BYTES
    without = packed[: start + 3] + packed[start + 2 * RECORD_BYTES :]  # the rest of a frame and the next one
    flipped = packed[: start + 4] + bytes([packed[start + 4] ^ 1]) + packed[start + 5 :]
    for damaged, n_lost in ((without, 2), (flipped, 1)):
        audio, live = decoded(codec, damaged)
        assert (live.n_frames, live.n_lost, live.is_complete) == (31 - n_lost, n_lost, True)
        assert len(audio) == 31 * codec.hop_length  # what is lost is concealed
        assert np.array_equal(audio[: 10 * codec.hop_length], decoded(codec, packed)[0][: 10 * codec.hop_length])


def test_a_gap_is_concealed_for_a_second_at_most(codec: Codec, packed: bytes) -> None:
    end = _record(read_header(io.BytesIO(packed), "stdin"), b"E", 0, struct.pack("<Q", 10**6))
    audio, live = decoded(codec, packed[:-13] + end)
    assert (live.n_frames, live.n_lost, live.is_complete) == (31, 25000 - 31, True)
    assert len(audio) == (31 + 50) * codec.hop_length


def frames(packed: bytes) -> list[bytes]:
    return [packed[at : at + RECORD_BYTES] for at in range(44, len(packed) - 13, RECORD_BYTES)]


def swapped(parts: list[bytes]) -> list[bytes]:
    return [part for pair in zip(parts[1::2], parts[::2], strict=False) for part in pair] + parts[30:]


@pytest.mark.parametrize(
    ("disorder", "n_lost", "n_late"),
    [
        (lambda parts: [part for part in parts for _ in range(2)], 0, 31),
        (lambda parts: [*parts, *parts], 0, 31),
        (swapped, 15, 15),
        (lambda parts: parts[::-1], 30, 30),
    ],
)
def test_frames_that_come_late_or_twice_are_skipped(
    codec: Codec, packed: bytes, disorder: Callable[[list[bytes]], list[bytes]], n_lost: int, n_late: int
) -> None:
    audio, live = decoded(codec, packed[:44] + b"".join(disorder(frames(packed))) + packed[-13:])
    assert (live.n_frames, live.n_lost, live.n_late, live.is_complete) == (31 - n_lost, n_lost, n_late, True)
    assert len(audio) == 31 * codec.hop_length


def test_a_number_starts_anew_after_65536_frames(codec: Codec, packed: bytes) -> None:
    header, (first, *_) = read_header(io.BytesIO(packed), "stdin"), frames(packed)
    numbered = [_record(header, b"F", number, first[3:-2]) for number in range(65_530, 65_542)]
    live = Live(n_frames=65_530)
    decode_live(codec, io.BytesIO(packed[:44] + b"".join(numbered)), io.BytesIO(), live)
    assert (live.n_frames, live.n_lost, live.n_late) == (65_542, 0, 0)


def test_a_wav_is_coded_up_to_the_length_in_its_header(codec: Codec, samples: np.ndarray, packed: bytes) -> None:
    data = wav(samples)
    assert encoded(codec, data + b"LIST" + struct.pack("<I", 4000) + bytes(4000)) == packed
    for size in (0, 0x7FFFF000, 0xFFFFFFFF):  # of live streams
        assert encoded(codec, data[:40] + struct.pack("<I", size) + data[44:]) == packed


def test_a_wav_that_is_cut_off_is_an_error_at_its_end(codec: Codec, samples: np.ndarray, packed: bytes) -> None:
    sink = io.BytesIO()
    with pytest.raises(CodecctlError, match=r"^stdin: cut off \(holds 0\.052 s of the 0\.077 s that its header claims"):
        encode_live(codec, io.BytesIO(wav(samples)[:-800]), sink, Live())
    assert decoded(codec, sink.getvalue())[1].n_frames == 21


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "holds NaN or infinite"), (9800.0, "far beyond full scale")])
def test_float_samples_that_are_no_sound_are_refused(codec: Codec, value: float, problem: str) -> None:
    audio = np.zeros(1000, np.float32)
    audio[800] = value
    with pytest.raises(CodecctlError, match=rf"^stdin: .*{problem}.* 0\.050 s"):
        encoded(codec, wav(audio, subtype="FLOAT"))


def test_a_stream_that_is_cut_is_decoded_as_far_as_it_goes(codec: Codec, packed: bytes) -> None:
    audio, live = decoded(codec, packed[: 44 + 5 * RECORD_BYTES + 3])
    assert (live.n_frames, live.is_complete, len(audio)) == (5, False, 5 * codec.hop_length)


def test_an_interrupt_ends_the_stream_with_its_mark(codec: Codec) -> None:
    class Interrupted(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            data = super().read1(size)
            if not data:
                raise KeyboardInterrupt
            return data

    sink, live = io.BytesIO(), Live()
    with pytest.raises(KeyboardInterrupt):
        encode_live(codec, Interrupted(bytes(500)), sink, live, rate=16000)
    assert decoded(codec, sink.getvalue())[1].is_complete
    assert live.n_samples == 250


def test_a_reader_that_leaves_got_the_seconds_of_its_frames(codec: Codec, samples: np.ndarray) -> None:
    class Leaves(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() > 100:
                raise BrokenPipeError
            return super().write(data)

    live = Live()
    with pytest.raises(BrokenPipeError):
        encode_live(codec, io.BytesIO(wav(samples)), Leaves(), live)
    assert live.n_frames > 0
    assert live.n_samples == live.n_frames * codec.hop_length


@pytest.mark.parametrize("garbage", [b"", b"hello", bytes(100), b"RIFF\0\0\0\0WAVE" + bytes(100)])
def test_garbage_is_refused(codec: Codec, garbage: bytes) -> None:
    with pytest.raises(CodecctlError, match="stdin: "):
        encoded(codec, garbage)
    with pytest.raises(CodecctlError, match="stdin: "):
        decoded(codec, garbage)


@pytest.mark.slow
def test_a_stream_of_another_model_is_refused(packed: bytes) -> None:
    with pytest.raises(CodecctlError, match="made by the model"):
        decoded(Codec.load("starter", "cpu"), packed)
