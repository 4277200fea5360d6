"""A file gives all that is there, and what is cut off is refused with both lengths."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.audio.files import AudioReader
from codecctl.audio.opening import CutOffError
from codecctl.errors import CodecctlError

INPUTS = Path(__file__).parents[1] / "inputs"
RATE = 16_000
SOUND = 0.3 * np.sin(np.arange(2 * RATE) * 0.1) * np.hanning(2 * RATE)  # 2 s
FORMATS = {
    "wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "gsm.wav": ("WAV", "GSM610"), "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"),
    "voc": ("VOC", "PCM_16"), "svx": ("SVX", "PCM_16"), "flac": ("FLAC", "PCM_16"), "sph": ("NIST", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"), "avr": ("AVR", "PCM_16"), "mpc": ("MPC2K", "PCM_16"), "sds": ("SDS", "PCM_16"),
    "mat4": ("MAT4", "PCM_16"), "double.mat4": ("MAT4", "DOUBLE"), "mat5": ("MAT5", "PCM_16"),
}  # fmt: skip


def encoded(name: str, audio: np.ndarray = SOUND) -> bytes:
    file = io.BytesIO()
    form, subtype = FORMATS[name]
    soundfile.write(file, audio, RATE, format=form, subtype=subtype)
    return file.getvalue()


def read(source: bytes | Path, *, partial: bool = False) -> np.ndarray:
    with AudioReader(source, partial=partial) as reader:
        audio = np.concatenate(list(reader.blocks(0.3)), axis=1)
        assert audio.shape[1] == reader.info.n_samples
        return audio


@pytest.mark.parametrize("name", FORMATS)
def test_half_of_a_file_is_refused_or_read_as_far_as_it_goes(name: str) -> None:
    data = encoded(name)
    half = data[: len(data) // 2]
    with pytest.raises(
        CutOffError, match=r"cut off \(holds [01]\.\d{3} s of the (1\.[89]|2\.0)\d* s that its header claims"
    ):
        AudioReader(half)
    there, whole = read(half, partial=True), read(data)
    assert 0.5 * RATE < there.shape[1] < 1.1 * RATE
    n_settled = there.shape[1] - 2304  # the last frames of an MP3 lack the next one's overlap
    np.testing.assert_allclose(there[:, :n_settled], whole[:, :n_settled], atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_missing_bytes_are_noticed(name: str) -> None:
    with pytest.raises(CutOffError, match="cut off"):
        read(encoded(name)[:-200])


@pytest.mark.parametrize("name", ["flac", "wav", "svx"])
def test_a_file_of_which_no_audio_is_left(name: str) -> None:
    data = encoded(name)
    head = data[: data.rindex(b"BODY") + 8 if name == "svx" else 44 if name == "wav" else 200]
    for partial in (False, True):
        with pytest.raises(CutOffError, match=r": cut off \(none of the audio that its header claims"):
            AudioReader(head, partial=partial)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_ogg_without_its_last_page_is_cut_off(suffix: str) -> None:
    path = INPUTS / f"cut_off.{suffix}"
    with pytest.raises(CutOffError, match=r"cut off \(it ends after (5\.128|4\.97\d) s without"):
        AudioReader(path)
    assert 4.9 * RATE < read(path, partial=True).shape[1] < 5.2 * RATE


SIZES: dict[str, tuple[bytes, int, str, tuple[int, ...]]] = {  # where the size stands, and what live streams write
    "wav": (b"data", 4, "<I", (0, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF000, 0x80000000)),
    "rf64": (b"ds64", 16, "<Q", (0, 2**64 - 1)),
    "w64": (b"data", 16, "<Q", (0, 24, 2**64 - 1)),
    "aiff": (b"SSND", 4, ">I", (0, 0xFFFFFFFF)),
    "au": (b".snd", 8, ">I", (0, 0xFFFFFFFF)),
    "caf": (b"data", 4, ">q", (-1,)),
}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, form in SIZES.items() for size in form[3]])
def test_the_size_of_a_live_stream_is_no_claim(name: str, size: int) -> None:
    data = bytearray(encoded(name))
    mark, offset, form, _ = SIZES[name]
    at = data.find(mark) + offset
    struct.pack_into(form, data, at, size)
    np.testing.assert_array_equal(read(bytes(data)), read(encoded(name)))
    if name != "aiff":  # which has the number of samples in another place, and so a claim
        assert read(bytes(data[:-16_000])).shape[1] == 2 * RATE - 8000


def test_a_recorder_without_power_leaves_sizes_of_zero() -> None:
    data = bytearray(encoded("wav"))
    data[4:8] = data[40:44] = bytes(4)
    np.testing.assert_array_equal(read(bytes(data)), read(encoded("wav")))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 5_000_000_000 % 2**32])  # live, or what 32 bits hold of the true one
def test_a_wav_of_more_than_4_gb(tmp_path: Path, size: int) -> None:
    data = bytearray(encoded("wav")[:44])
    struct.pack_into("<I", data, 40, size)
    with open(tmp_path / "large.wav", "wb") as file:  # sparse: it takes no room on the disk
        file.write(data)
        file.truncate(5_000_000_042)
        file.seek(0, io.SEEK_END)
        file.write(b"\x00\x40")
    with AudioReader(tmp_path / "large.wav") as reader:
        assert reader.info.n_samples == 2_500_000_000
        (last,) = reader.blocks(start_seconds=reader.info.seconds - 100 / RATE)
    assert last.shape == (1, 100)
    assert last[0, -1] == 0.5


def without_total(data: bytes) -> bytes:
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def test_flac_of_unknown_length() -> None:
    data = encoded("flac")
    np.testing.assert_array_equal(read(without_total(data)), read(data))
    assert read(without_total(data[: len(data) // 2])).shape[1] % 4096 == 0


def test_an_empty_wav_before_other_chunks_is_empty() -> None:
    data = encoded("wav", np.zeros(0)) + b"LIST\x04\0\0\0INFO"
    with pytest.raises(CodecctlError, match="holds no audio"):
        AudioReader(data)


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_joined_files_are_read_to_the_end(suffix: str) -> None:
    assert read(INPUTS / f"joined.{suffix}").shape == (1, 4 * RATE)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "voc"])  # whose blocks libsndfile miscounts
def test_two_files_in_one_give_both(name: str) -> None:
    one, two = encoded(name), encoded(name, SOUND[::-1][:RATE])
    np.testing.assert_array_equal(read(one + two), np.concatenate([read(one), read(two)], axis=1))


def test_a_stretch_of_joined_files() -> None:
    whole = read(INPUTS / "joined.ogg")
    with AudioReader(INPUTS / "joined.ogg") as reader:
        (block,) = reader.blocks(start_seconds=1.75, n_seconds=0.5)
    np.testing.assert_allclose(block, whole[:, 28_000:36_000], atol=1e-4)


def test_joined_files_of_different_rates_are_refused() -> None:
    other = io.BytesIO()
    soundfile.write(other, SOUND, 8000, format="WAV")
    with pytest.raises(CodecctlError, match="16000 Hz with 1 channels, then 8000 Hz with 1"):
        AudioReader(encoded("wav") + other.getvalue())


def test_mp3_frames_are_counted_not_estimated() -> None:
    assert read(INPUTS / "vbr_without_xing.mp3").shape[1] == 225 * 576 - 529  # without the decoder's delay


def drop_tag(data: bytes) -> bytes:
    return data[_second_frame(data) :]


def understate(data: bytes) -> bytes:
    at = data.find(b"Xing") + 8
    return data[:at] + (20).to_bytes(4, "big") + data[at + 4 :]


def _second_frame(data: bytes) -> int:
    return data.find(data[:2], 1)


@pytest.mark.parametrize("change", [drop_tag, understate, lambda data: data + b"TAG" + bytes(125)])
def test_mp3_headers_that_are_missing_or_wrong(change: Callable[[bytes], bytes]) -> None:
    data = encoded("mp3")
    assert abs(read(change(data)).shape[1] - read(data).shape[1]) <= 3 * 576


def test_silence_is_no_damaged_header() -> None:
    assert read(encoded("flac", np.zeros(60 * RATE))).shape[1] == 60 * RATE


def test_a_header_that_claims_too_much_is_refused() -> None:
    data = bytearray(without_total(encoded("flac")))
    frame = data.rfind(b"\xff\xf8")
    data[21:26] = bytes([data[21] | 15]) + b"\xff\xff\xff\xff"
    assert frame > 0
    with pytest.raises(CodecctlError, match=r"cut off|damaged header \(claims"):
        AudioReader(bytes(data))


@pytest.mark.parametrize("rate", [1, 3999, 768_001])
def test_sample_rates_that_cannot_be(rate: int) -> None:
    data = bytearray(encoded("wav"))
    struct.pack_into("<II", data, 24, rate, 2 * rate)
    with pytest.raises(CodecctlError, match=rf"sample rate out of range \({rate} Hz; 4000 to 768000 Hz are read"):
        AudioReader(bytes(data))


def test_damage_within_an_mp3_hides_only_the_damaged_frames() -> None:
    data = bytearray(drop_tag(encoded("mp3", np.tile(SOUND, 5))))
    for at in range(2000, len(data) - 2000, 2000):
        data[at : at + 60] = bytes(60)
    n_samples = read(bytes(data)).shape[1]
    assert 5 * RATE < n_samples < 10.2 * RATE
