"""Files are what their bytes say, whatever their names; what cannot be sound is refused with the likely cause."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.audio.files import AudioReader, find_audio, read_audio
from codecctl.errors import CodecctlError

INPUTS = Path(__file__).parents[1] / "inputs"
SOUND = (0.3 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)


def written(audio: np.ndarray, **form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, 16_000, **{"format": "WAV", "subtype": "PCM_16", **form})
    return file.getvalue()


@pytest.mark.parametrize("form", ["FLAC", "AIFF", "OGG", "MP3"])
def test_the_name_does_not_matter(tmp_path: Path, form: str) -> None:
    soundfile.write(tmp_path / "right", SOUND, 16_000, format=form)
    os.rename(tmp_path / "right", tmp_path / "wrong.wav")
    assert read_audio(tmp_path / "wrong.wav")[0].shape == (1, 16_000)


def test_mpeg4_under_another_name() -> None:
    pytest.importorskip("av")
    for source in (INPUTS / "mpeg4_named.mp3", (INPUTS / "mpeg4_named.mp3").read_bytes()):
        with AudioReader(source) as reader:
            assert (reader.info.format, reader.info.lossy) == ("MPEG-4", "aac")
            assert sum(block.shape[1] for block in reader.blocks()) == pytest.approx(33_000, abs=1000)


def test_without_pyav_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CodecctlError, match=r"needs PyAV to decode \(an MPEG-4 file named \.mp3\): pip install"):
        AudioReader(INPUTS / "mpeg4_named.mp3")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b'\n <?xml version="1.0"?>', "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"CCTL\x01", "packed codes"),
        ("Grüße, no audio".encode(), "a text file"),
    ],
)
def test_other_files_are_named(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "a.mp3").write_bytes(start + b"1" * 2000)
    with pytest.raises(CodecctlError, match=rf"a\.mp3: not audio \({kind}"):
        AudioReader(tmp_path / "a.mp3")


def test_a_page_named_mp3() -> None:
    with pytest.raises(CodecctlError, match=r"page\.mp3: not audio \(an HTML page\)$"):
        AudioReader(INPUTS / "page.mp3")


def test_a_file_beside_gives_other_bytes_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile looks for the header of SD2 in `._NAME`; without a name that is `._` in the current folder."""
    soundfile.write(tmp_path / "a.sd2", SOUND, 16_000, format="SD2", subtype="PCM_16")
    header = (tmp_path / "._a.sd2").read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "._").write_bytes(header)
    for data in (b"\5" * 12 + header, b"\5" * 1000):
        with pytest.raises(CodecctlError, match=r"^audio in memory: .* \(the format is not recognised\)$"):
            AudioReader(data)
    with pytest.raises(CodecctlError, match=r"^a\.sd2: .* \(the format is not recognised\)$"):
        AudioReader("a.sd2")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(CodecctlError, match="a pipe or a device"):
        AudioReader(tmp_path / "a.wav")


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.wav").write_bytes(written(SOUND))
    (tmp_path / "list.m4a").write_bytes(b"ffconcat version 1.0\nfile a.wav\n#\0\n")
    with pytest.raises(CodecctlError, match="cannot be read as audio"):
        AudioReader(tmp_path / "list.m4a")


def test_integers_stored_as_float_are_refused() -> None:
    data = written(SOUND * 32768, subtype="FLOAT")
    with AudioReader(data) as reader, pytest.raises(CodecctlError, match=r"up to 98\d\d, from 0\.\d+ s .* as float"):
        list(reader.blocks())
    hot = read_float(SOUND * 100)  # 30 dB over full scale, as some tools write it
    np.testing.assert_allclose(hot[0], SOUND * 100, rtol=1e-6)


def read_float(audio: np.ndarray) -> np.ndarray:
    with AudioReader(written(audio, subtype="FLOAT")) as reader:
        return np.concatenate(list(reader.blocks()), axis=1)


def mixed(*channels: np.ndarray) -> tuple[np.ndarray, int | None]:
    with AudioReader(written(np.stack(channels, axis=1), subtype="FLOAT")) as reader:
        audio = np.concatenate([reader.to_mono(block) for block in reader.blocks(0.2)], axis=1)
        return audio[0], reader.info.channel


def test_channels_that_cancel_give_the_louder_one() -> None:
    audio, channel = mixed(-0.9 * SOUND, SOUND)
    assert channel == 1
    np.testing.assert_array_equal(audio, SOUND)


def test_other_channels_give_their_mean() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, SOUND.shape).astype(np.float32)
    for left, right in ((SOUND, SOUND), (SOUND, noise), (SOUND, 0 * SOUND), (0 * SOUND, 0 * SOUND)):
        audio, channel = mixed(left, right)
        assert channel is None
        np.testing.assert_allclose(audio, (left + right) / 2, atol=1e-6)


def test_a_search_finds_what_can_be_read_and_counts_the_rest(tmp_path: Path) -> None:
    found = [f"a{suffix}" for suffix in (".3gp", ".SPH", ".aifc", ".bwf", ".mka", ".mp2", ".rf64", ".snd")]
    for name in (*found, "a.txt", "b.TXT", "README", ".hidden.xyz"):
        (tmp_path / name).touch()
    skipped: Counter[str] = Counter()
    assert [path.name for path in find_audio([tmp_path], skipped)] == sorted(found)
    assert skipped == {".txt": 2, "": 1}


def test_a_folder_that_cannot_be_listed_is_an_error() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "closed").mkdir(mode=0)
        try:
            if user == 0:  # root may list every folder
                os.seteuid(65534)
            with pytest.raises(CodecctlError, match=r"closed: this folder cannot be listed \(Permission denied\)"):
                find_audio([folder])
        finally:
            os.seteuid(user)
