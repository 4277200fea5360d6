"""Files come back as they were written, in any cut, and what is no audio is named."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.audio.files import AudioReader, AudioWriter, find_audio, read_audio
from codecctl.errors import CodecctlError, UsageError
from tests.conftest import write_audio


def noise(n_samples: int, n_channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(-0.9, 0.9, (n_channels, n_samples)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    audio = np.round(noise(5000, 2) * 32768) / 32768
    write_audio(tmp_path / f"a{suffix}", audio.astype(np.float32), 22050)
    again, sample_rate = read_audio(tmp_path / f"a{suffix}")
    assert sample_rate == 22050
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, audio)


def test_blocks_are_the_file(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(12_345, 2), 8000)
    with AudioReader(tmp_path / "a.wav") as reader:
        blocks = list(reader.blocks(0.1))
    assert [block.shape for block in blocks] == [(2, 800)] * 15 + [(2, 345)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), read_audio(tmp_path / "a.wav")[0])


def test_bytes_are_read_like_a_file(speech_files: list[Path]) -> None:
    with AudioReader(speech_files[0].read_bytes(), name="row 3") as reader:
        audio = np.concatenate(list(reader.blocks()), axis=1)
    np.testing.assert_array_equal(audio, read_audio(speech_files[0])[0])
    with pytest.raises(CodecctlError, match=r"^row 3: not audio \(a text file\)"):
        AudioReader(b"no audio at all", name="row 3")


def test_what_the_header_says(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", noise(24_000, 2).T, 24_000)
    with AudioReader(tmp_path / "a.ogg") as reader:
        info = reader.info
    assert (info.sample_rate, info.n_channels, info.n_samples, info.lossy) == (24_000, 2, 24_000, "vorbis")


def test_too_loud_is_clipped_not_wrapped(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([[1.5, -1.5, 1.0, -1.0]], np.float32), 16_000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [[1, -1, 1, -1]], atol=1e-4)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(100), 16_000)
    before = (tmp_path / "a.wav").read_bytes()

    def write_and_fail() -> None:
        with AudioWriter(tmp_path / "a.wav", 16_000) as writer:
            writer.write(noise(100))
            writer.write(np.full((1, 3), np.nan, np.float32))

    with pytest.raises(CodecctlError, match=r"a\.wav: not written, .* NaN"):
        write_and_fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_full_disk_is_named_with_the_file(tmp_path: Path, suffix: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # fails as a full disk does
    try:
        with pytest.raises(CodecctlError, match=rf"^{tmp_path}/a{suffix}: cannot be written \(File too large\)$"):
            write_audio(tmp_path / f"a{suffix}", noise(50_000), 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.mp3: audio is written as \.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", noise(9), 16_000)


def cut_flac(path: Path) -> None:
    soundfile.write(path, noise(50_000)[0], 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:40_000])


BAD = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a picture": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" * 50), "not audio .a JPEG image"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "holds no audio"),
    "nan": (lambda path: soundfile.write(path, [0] * 4000 + [np.nan], 4000, subtype="FLOAT"), "NaN .* at 1.000 s"),
    "cut off": (cut_flac, "cut off"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(CodecctlError, match=rf"bad\.wav: .*{message}") as error:
        read_audio(path)
    assert "\n" not in str(error.value)


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.FLAC", "a.mp3", "b/.hidden.wav", ".git/x.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    found = find_audio([tmp_path, tmp_path / "a.mp3", tmp_path / "notes.txt"])
    assert found == [tmp_path / name for name in ("a.mp3", "b/1.FLAC", "b/2.wav", "notes.txt")]
    with pytest.raises(CodecctlError, match="nowhere: no such file or folder"):
        find_audio([tmp_path / "nowhere"])
