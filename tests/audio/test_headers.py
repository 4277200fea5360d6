"""Formats of instruments and of MATLAB: what their headers claim is compared with what is there."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from codecctl.audio.files import AudioReader
from codecctl.audio.opening import CutOffError
from codecctl.errors import CodecctlError

SOUND = 0.3 * np.sin(np.arange(32_000) * 0.1)
STEREO = np.stack([SOUND, 0.5 * SOUND], axis=1)


def encoded(form: str, subtype: str, audio: np.ndarray = STEREO, endian: str = "FILE") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, 8000, format=form, subtype=subtype, endian=endian)
    return file.getvalue()


def instrument() -> bytes:
    """An XI file as its program writes it: libsndfile leaves the length of the sample at zero."""
    data = bytearray(encoded("XI", "DPCM_16", SOUND))
    struct.pack_into("<I", data, 298, 64_000)
    return bytes(data)


WHOLE = {
    "avr": encoded("AVR", "PCM_16"),
    "8-bit avr": encoded("AVR", "PCM_S8"),
    "mpc": encoded("MPC2K", "PCM_16"),
    "mat4": encoded("MAT4", "FLOAT"),
    "big-endian mat4": encoded("MAT4", "PCM_32", endian="BIG"),
    "mat5": encoded("MAT5", "DOUBLE"),
    "big-endian mat5": encoded("MAT5", "PCM_16", endian="BIG"),
    "8-bit sds": encoded("SDS", "PCM_S8", SOUND),
    "24-bit sds": encoded("SDS", "PCM_24", SOUND),
    "wve": encoded("WVE", "ALAW", SOUND),
    "xi": instrument(),
}


def n_read(data: bytes, *, partial: bool = False) -> int:
    with AudioReader(data, partial=partial) as reader:
        n_samples = sum(block.shape[1] for block in reader.blocks())
        assert reader.info.n_samples == n_samples
        return n_samples


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_cut_off_is_refused_or_read_as_far_as_it_goes(name: str) -> None:
    data = WHOLE[name]
    assert n_read(data) == 32_000
    for part in (data[: len(data) // 2], data[:-200]):
        with pytest.raises(CutOffError, match=r"\.\d{3} s of the (4\.0\d\d|3\.9\d\d|0\.726) s that its header claims"):
            AudioReader(part)
        assert n_read(part, partial=True) == pytest.approx(32_000 * len(part) / len(data), rel=0.02)


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_the_samples_is_no_sound(name: str) -> None:
    assert n_read(WHOLE[name] + 100 * b"tail") == 32_000


@pytest.mark.parametrize(("name", "at"), [("avr", 26), ("mpc", 30), ("wve", 18), ("xi", 298)])
def test_a_length_of_zero_is_no_claim(name: str, at: int) -> None:
    data = bytearray(WHOLE[name])
    data[at : at + 4] = bytes(4)
    assert n_read(bytes(data)) == 32_000


@pytest.mark.parametrize("name", ["mat4", "mat5"])
def test_a_file_that_ends_in_its_header_is_no_audio(name: str) -> None:
    data = WHOLE[name]
    for n_bytes in range(1, 64 if name == "mat4" else 240):
        with pytest.raises(CodecctlError, match=r"audio in memory: .*(audio|cut off)"):
            AudioReader(data[:n_bytes])
