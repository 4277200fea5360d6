"""Files of audio to files of codes and back: lengths, formats, refusals, and nothing half left behind."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecctl.audio.files import find_audio, read_audio, to_mono
from codecctl.audio.resample import resample
from codecctl.bitstream import PackedReader, PackedWriter
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference import files
from codecctl.inference.containers import find_codes, npy_bytes
from codecctl.inference.files import decode_file, encode_file
from codecctl.inference.load import Codec, save_codec
from codecctl.inference.outputs import plan_outputs
from tests.conftest import TINY


def write_noise(path: Path, n_samples: int, sample_rate: int = 16000, n_channels: int = 1) -> Path:
    noise = np.random.default_rng(n_samples).uniform(-0.5, 0.5, (n_samples, n_channels))
    soundfile.write(path, noise, sample_rate)
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("n_samples", [1, 39, 40, 41, 12_345, 33_000])
def test_packed_codes_decode_to_the_same_number_of_samples(codec: Codec, tmp_path: Path, n_samples: int) -> None:
    wav = write_noise(tmp_path / "in.wav", n_samples)
    encoded = encode_file(codec, wav, tmp_path / "x.cctl")
    decoded = decode_file(codec, tmp_path / "x.cctl", tmp_path / "out.flac")
    assert encoded.n_samples == decoded.n_samples == n_samples == soundfile.info(tmp_path / "out.flac").frames
    assert encoded.n_frames == -(-n_samples // 40)


def test_both_formats_hold_the_codes_of_the_whole_signal(codec: Codec, tmp_path: Path) -> None:
    wav = write_noise(tmp_path / "in.wav", 50_001)
    encode_file(codec, wav, tmp_path / "x.cctl")
    encode_file(codec, wav, tmp_path / "x.npy")
    audio = torch.from_numpy(read_audio(wav)[0])[None]
    whole = codec.encode(audio)[0].numpy()
    codes = np.load(tmp_path / "x.npy")
    assert codes.dtype == np.uint16
    assert np.array_equal(codes, PackedReader(tmp_path / "x.cctl").read())
    assert np.mean(codes != whole) < 1e-3  # float32: but for ties
    assert len(np.unique(codes[0])) > 5


def test_codes_in_npy_decode_to_whole_frames(codec: Codec, tmp_path: Path) -> None:
    encoded = encode_file(codec, write_noise(tmp_path / "in.wav", 12_345), tmp_path / "x.npy")
    codes = np.load(tmp_path / "x.npy")
    decode_file(codec, str(tmp_path / "x.npy"), str(tmp_path / "out.wav"))
    audio, sample_rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    whole = codec.decode(torch.from_numpy(codes.astype(np.int64))[None])[0, 0].numpy()
    assert sample_rate == 16000
    assert len(audio) == 309 * 40
    assert np.abs(audio - whole.clip(-1, 1)).max() < 1.01 / 32768
    assert encoded.bitrate_kbps == pytest.approx(309 * 13 / (12_345 / 16000) / 1000)


@pytest.mark.parametrize(("sample_rate", "n_channels"), [(44100, 2), (8000, 1), (22050, 6), (48000, 1)])
def test_any_rate_and_channels_are_resampled_and_mixed_down(
    codec: Codec, tmp_path: Path, sample_rate: int, n_channels: int
) -> None:
    wav = write_noise(tmp_path / "in.wav", sample_rate * 2 + 7, sample_rate, n_channels)
    encoded = encode_file(codec, wav, tmp_path / "x.npy")
    codes = np.load(tmp_path / "x.npy")
    audio = resample(to_mono(read_audio(wav)[0]), sample_rate, 16000)
    assert encoded.n_samples == audio.shape[1]
    assert (encoded.source.sample_rate, encoded.source.n_channels) == (sample_rate, n_channels)
    whole = codec.encode(torch.from_numpy(audio)[None])[0].numpy()
    assert np.mean(codes != whole) < 0.01  # the resampler's last bit may differ


def test_the_size_of_the_model_chunk_does_not_change_the_codes(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = write_noise(tmp_path / "in.wav", 20_000)
    encode_file(codec, wav, tmp_path / "whole.npy")
    monkeypatch.setattr(files, "FRAMES_PER_CHUNK", 7)
    encode_file(codec, wav, tmp_path / "parts.npy")
    assert np.mean(np.load(tmp_path / "parts.npy") != np.load(tmp_path / "whole.npy")) < 1e-3


def test_real_speech_keeps_its_length(codec: Codec, tmp_path: Path, speech_files: list[Path]) -> None:
    for path in speech_files[:2]:
        encoded = encode_file(codec, path, tmp_path / "x.cctl")
        decode_file(codec, tmp_path / "x.cctl", tmp_path / "out.wav")
        assert soundfile.info(tmp_path / "out.wav").frames == encoded.n_samples == soundfile.info(path).frames


@pytest.mark.parametrize("suffix", [".npy", ".cctl"])
def test_fewer_codebooks(codec: Codec, tmp_path: Path, suffix: str) -> None:
    wav, output = write_noise(tmp_path / "in.wav", 4000), tmp_path / f"x{suffix}"
    encoded = encode_file(codec, wav, output, n_quantizers=2)
    assert (encoded.n_quantizers, encoded.bits_per_frame) == (2, 10)
    assert decode_file(codec, output, tmp_path / "out.wav").n_quantizers == 2
    for n_quantizers in (0, 4, -1):
        with pytest.raises(UsageError, match="must be 1 to 3"):
            encode_file(codec, wav, output, n_quantizers=n_quantizers)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((3, 5), np.float32), "must be integers, got float32"),
        (np.full((3, 5), np.nan), "must be integers, got float64"),
        (np.full((3, 5), 64), "codebook 1 has codes from 0 to 63, but frame 0 holds 64"),
        (np.full((3, 5), -1, np.int8), "codebook 1 .* holds -1"),
        (np.zeros((4, 5), np.int64), "4 codebooks, but there are 3"),
        (np.zeros((5, 3), np.int64), "5 codebooks"),
        (np.zeros((1, 3, 5), np.int64), "two axes"),
        (np.zeros(5, np.int64), "two axes"),
        (np.zeros((3, 0), np.uint16), "no codes|cannot be read"),
        (np.zeros((0, 3), np.uint16), "0 codebooks|cannot be read"),
        (np.array([["a", None]], object), "cannot be read as .npy"),
    ],
)
def test_arrays_other_than_codes_are_refused(
    codec: Codec, tmp_path: Path, codes: np.ndarray[Any, Any], message: str
) -> None:
    np.save(tmp_path / "x.npy", codes, allow_pickle=True)
    with pytest.raises(CodecctlError, match=rf"x\.npy: .*({message})"):
        decode_file(codec, tmp_path / "x.npy", tmp_path / "out.wav")
    assert names(tmp_path) == ["x.npy"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_npy_is_an_error_or_other_codes(codec: Codec, tmp_path: Path, data: st.DataObject) -> None:
    whole = npy_bytes(np.ones((3, 4), np.uint16))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(0, 255))
    (tmp_path / "x.npy").write_bytes(damaged)
    with contextlib.suppress(CodecctlError):  # and no other exception
        assert decode_file(codec, tmp_path / "x.npy", tmp_path / "out.wav").n_samples == 160


@pytest.mark.parametrize("kind", ["flip", "cut", "garbage", "text", "empty", "missing"])
def test_damaged_codes_leave_no_output(codec: Codec, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.cctl"
    encode_file(codec, write_noise(tmp_path / "in.wav", 80_000), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 4  # in the last block
    contents = {"flip": flipped, "cut": whole[:-1], "garbage": whole + b"x", "text": b"hello", "empty": b""}
    path.unlink() if kind == "missing" else path.write_bytes(contents[kind])
    stream = io.BytesIO()
    for output in (tmp_path / "out.wav", stream):
        with pytest.raises(CodecctlError, match=r"x\.cctl: "):
            decode_file(codec, path, output)
    assert stream.getvalue() == b""
    assert not set(names(tmp_path)) - {"in.wav", "x.cctl"}


def test_codes_of_another_model_are_refused_by_name(codec: Codec, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_codec(Codec(TINY), tmp_path / "other.pt")
    other = Codec.load(tmp_path / "other.pt", "cpu")
    encode_file(other, write_noise(tmp_path / "in.wav", 4000), tmp_path / "x.cctl")
    with pytest.raises(CodecctlError, match=f"made by the model {other.fingerprint}, .* is {codec.fingerprint}"):
        decode_file(codec, tmp_path / "x.cctl", tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("lie", [{"hop_length": 41}, {"sample_rate": 8000}, {"codebook_sizes": (128, 16, 8)}])
def test_a_header_that_contradicts_its_model_is_refused(codec: Codec, tmp_path: Path, lie: dict[str, Any]) -> None:
    keys = {"fingerprint": codec.fingerprint, "sample_rate": 16000, "hop_length": 40, "codebook_sizes": (64, 16, 8)}
    with PackedWriter(tmp_path / "x.cctl", **(keys | lie)) as writer:
        writer.write(np.full((3, 5), 7))
    with pytest.raises(CodecctlError, match="not its sample rate, hop length and codebooks"):
        decode_file(codec, tmp_path / "x.cctl", tmp_path / "out.wav")


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_of_nan_writes_nothing(model: Path, tmp_path: Path, stream: bool) -> None:
    codec = Codec.load(model, "cpu")
    encode_file(codec, write_noise(tmp_path / "in.wav", 400), tmp_path / "x.cctl")
    next(codec.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(CodecctlError, match="NaN"):
        decode_file(codec, tmp_path / "x.cctl", io.BytesIO() if stream else tmp_path / "out.wav")
    assert names(tmp_path) == ["in.wav", "x.cctl"]


def test_a_codec_that_was_not_loaded_cannot_write_packed_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no fingerprint"):
        encode_file(Codec(TINY), write_noise(tmp_path / "in.wav", 400), tmp_path / "x.cctl")
    assert names(tmp_path) == ["in.wav"]


def test_wav_to_a_stream_is_the_wav_of_a_file(codec: Codec, tmp_path: Path) -> None:
    encode_file(codec, write_noise(tmp_path / "in.wav", 30_001), tmp_path / "x.cctl")
    decode_file(codec, tmp_path / "x.cctl", tmp_path / "out.wav")
    stream = io.BytesIO()
    decode_file(codec, tmp_path / "x.cctl", stream)
    expected, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    stream.seek(0)
    streamed, sample_rate = soundfile.read(stream, dtype="int16")
    assert sample_rate == 16000
    assert np.array_equal(streamed, expected)
    assert len(stream.getvalue()) == 44 + 2 * 30_001


@pytest.mark.parametrize("place", ["in.wav", "link.wav", "folder.wav", "missing/x.wav", "x.mp3", "null.wav"])
def test_outputs_that_cannot_be_written_as_asked_are_refused(codec: Codec, tmp_path: Path, place: str) -> None:
    source = tmp_path / "in.wav"
    source.write_bytes(npy_bytes(np.zeros((3, 5), np.uint16)))  # codes under an unlucky name
    (tmp_path / "link.wav").symlink_to(source)
    (tmp_path / "null.wav").symlink_to("/dev/null")
    (tmp_path / "folder.wav").mkdir()
    before = source.read_bytes()
    with pytest.raises(UsageError, match=Path(place).name):
        decode_file(codec, source, tmp_path / place)
    assert source.read_bytes() == before


@pytest.mark.parametrize("suffix", [".npy", ".cctl"])
def test_broken_audio_leaves_no_output(codec: Codec, tmp_path: Path, suffix: str) -> None:
    noise = np.zeros(200_000, np.float32)
    noise[150_000] = np.nan  # found when most is encoded
    soundfile.write(tmp_path / "in.wav", noise, 16000, subtype="FLOAT")
    with pytest.raises(CodecctlError, match=r"in\.wav: .*NaN"):
        encode_file(codec, tmp_path / "in.wav", tmp_path / f"x{suffix}")
    assert names(tmp_path) == ["in.wav"]


def test_partial_audio_without_a_sample_leaves_no_output(codec: Codec, tmp_path: Path) -> None:
    flac = write_noise(tmp_path / "in.flac", 48_000)
    data = bytearray(flac.read_bytes())
    data[1600:-9000] = np.random.default_rng(0).bytes(len(data) - 10_600)
    flac.write_bytes(data)
    with pytest.raises(CodecctlError, match=r"in\.flac: holds no audio before the damage"):
        encode_file(codec, flac, str(tmp_path / "x.npy"), partial=True)
    assert names(tmp_path) == ["in.flac"]


def test_outputs_keep_the_tree_and_tell_files_apart_that_differ_by_their_suffix(tmp_path: Path) -> None:
    for name in ("a.wav", "deep/c.flac", "deep/c.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [tmp_path, Path("gone.wav")]
    pairs = plan_outputs(inputs, Path("out"), ".npy", lambda folder: find_audio([folder]), "audio")
    outputs = {str(output) for _, output in pairs}
    assert outputs == {"out/a.npy", "out/deep/c.flac.npy", "out/deep/c.wav.npy", "out/gone.npy"}


def test_two_inputs_for_one_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a/x\.wav and b/x\.wav would both be written to out/x\.wav\.npy"):
        plan_outputs([Path("a/x.wav"), Path("b/x.wav")], Path("out"), ".npy", find_codes, "codes")
    with pytest.raises(CodecctlError, match="holds no codes"):
        plan_outputs([tmp_path], Path("out"), ".wav", find_codes, "codes")
