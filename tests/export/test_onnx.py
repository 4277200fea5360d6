"""ONNX files in onnxruntime beside torch: recordings and streams, all fronts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codecctl.config.model import ModelConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.export.onnx import write_onnx
from codecctl.export.onnx_codec import OnnxCodec
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec, export_codec, save_codec
from tests.conftest import lively

TOLERANCE = 1e-4  # of a sample


@pytest.fixture(scope="module")
def exported(tiny_of_each_front: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and its ONNX files. For reading only."""
    folder = tmp_path_factory.mktemp("exported")
    save_codec(lively(tiny_of_each_front), folder / "codec.pt")
    write_onnx(Checkpoint.read(folder / "codec.pt"), folder / "onnx")
    return folder / "codec.pt", folder / "onnx"


def test_recordings_and_streams_are_those_of_torch(exported: tuple[Path, Path], speech: Tensor) -> None:
    codec, files = Codec.load(exported[0], "cpu"), OnnxCodec(exported[1])
    assert files.fingerprint == codec.fingerprint
    for n_samples in (1, codec.hop_length, 33 * codec.hop_length - 1, 1200):  # chunks have 32 frames
        audio = speech[..., 8000 : 8000 + n_samples]
        codes = codec.encode(audio)
        assert np.array_equal(files.encode(audio.numpy()), codes.numpy())
        for k in (1, codec.n_codebooks):
            decoded = codec.decode(codes[:, :k])
            np.testing.assert_allclose(files.decode(codes[:, :k].numpy()), decoded, rtol=0, atol=TOLERANCE)
    encoder, decoder = files.stream_encoder(), files.stream_decoder()
    n, hop, delay = codes.shape[-1], codec.hop_length, codec.config.delay
    padded = np.pad(audio.numpy(), [(0, 0), (0, 0), (0, n * hop - n_samples)])
    streamed = np.concatenate([encoder.push(each) for each in np.split(padded, n, axis=-1)], axis=-1)
    assert np.array_equal(streamed, codes.numpy())
    after = np.full((1, codec.n_codebooks, codec.n_frames(delay)), -1)
    pushed = np.concatenate([codes.numpy(), after], axis=-1)
    late = np.concatenate([decoder.push(pushed[..., i : i + 1]) for i in range(pushed.shape[-1])], axis=-1)
    np.testing.assert_allclose(late[..., delay : delay + n * hop], decoded, rtol=0, atol=TOLERANCE)


def test_int8_files_are_the_int8_export(exported: tuple[Path, Path], tmp_path: Path, speech: Tensor) -> None:
    rounded = export_codec(Checkpoint.read(exported[0]), tmp_path / "int8.safetensors", "int8")
    codec, files = Codec.load(rounded.path, "cpu"), OnnxCodec(exported[1], "int8")
    assert files.fingerprint == rounded.fingerprint
    audio = speech[..., 8000:9200]
    codes = codec.encode(audio)
    assert np.array_equal(files.encode(audio.numpy()), codes.numpy())
    np.testing.assert_allclose(files.decode(codes.numpy()), codec.decode(codes), rtol=0, atol=TOLERANCE)


def test_other_arrays_are_handled_as_in_torch(exported: tuple[Path, Path]) -> None:
    files, nothing = OnnxCodec(exported[1]), np.zeros((1, 1, 0), np.float32)
    assert files.encode(nothing).shape == (1, 3, 0)
    assert files.decode(files.encode(nothing)[:, :2]).shape == (1, 1, 0)
    with pytest.raises(UsageError, match="must be finite"):
        files.encode(np.full((1, 1, 100), np.nan, np.float32))
    audio = np.random.default_rng(0).normal(0, 0.1, (1, 1, 100))
    assert np.array_equal(files.encode(audio), files.encode(audio.astype(np.float32)))
    with pytest.raises(UsageError, match=r"audio must be float \[1, 1, L\].* got int16 \[100\]"):
        files.encode(np.zeros(100, np.int16))
    codes = np.ones((1, 2, 5), np.uint16)
    assert np.array_equal(files.decode(codes), files.decode(codes.astype(np.int64)))
    for wrong in (np.zeros((1, 4, 5), np.int64), np.zeros((2, 1, 5), np.int64), np.zeros(5, np.int64), codes / 2):
        with pytest.raises(UsageError, match=r"codes must be integers \[1, 1 to 3, T\], got (int|float)64 \["):
            files.decode(wrong)
    assert files.decode(np.full((1, 2, 5), -1)).shape[1] == 1
    for code in (-2, 4096):
        with pytest.raises(UsageError, match=rf"within the codebook sizes \[.*; got {min(code, 0)} to {max(code, 0)}:"):
            files.decode(np.array([[[0, code]]]))


def test_a_stream_refuses_what_is_no_frame_and_goes_on(exported: tuple[Path, Path]) -> None:
    files = OnnxCodec(exported[1])
    frame = np.full((1, 1, files.facts["hop_length"]), 0.1, np.float32)
    encoder, other = files.stream_encoder(), files.stream_encoder()
    for wrong, message in ((frame * np.nan, "must be finite"), (frame[..., 1:], "one frame at a time")):
        assert np.array_equal(encoder.push(frame), other.push(frame))
        with pytest.raises(UsageError, match=message):
            encoder.push(wrong)
    assert np.array_equal(encoder.push(frame), other.push(frame))
    with pytest.raises(UsageError, match="within the codebook sizes"):
        files.stream_decoder().push(np.full((1, 3, 1), 4096))


def test_streams_share_the_loaded_model_and_no_state(exported: tuple[Path, Path], tmp_path: Path) -> None:
    files = OnnxCodec(shutil.copytree(exported[1], tmp_path / "onnx"))
    decoder, codes = files.stream_decoder(), np.ones((1, 3, 1), np.int64)
    first = [decoder.push(codes) for _ in range(3)]
    (tmp_path / "onnx" / "decoder_step.onnx").unlink()
    again = files.stream_decoder()
    assert np.array_equal(first, [again.push(codes) for _ in range(3)])


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter") / "onnx"
    write_onnx(Checkpoint.read(find_checkpoint("starter")), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_starter_gives_its_codes_on_real_speech(starter: Path, speech_files: list[Path], precision: str) -> None:
    codec, files = Codec.load("starter", "cpu"), OnnxCodec(starter, precision)
    assert files.fingerprint == codec.fingerprint  # its weights are rounded already
    for path in speech_files[::5]:
        audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0]).reshape(1, 1, -1)
        codes = codec.encode(audio)
        assert np.array_equal(files.encode(audio.numpy()), codes.numpy())
        np.testing.assert_allclose(files.decode(codes.numpy()), codec.decode(codes), rtol=0, atol=TOLERANCE)
    sizes = {path.name: path.stat().st_size for path in starter.iterdir()}
    assert sizes["encoder_model_int8.onnx"] < 0.4 * sizes["encoder_model.onnx"]


def test_files_and_codes_of_another_model_are_refused(exported: tuple[Path, Path], tmp_path: Path) -> None:
    files = OnnxCodec(exported[1])
    codes = np.zeros((1, 1, 4), np.int64)
    assert files.decode(codes, fingerprint=files.fingerprint).shape[-1] == 4 * files.facts["hop_length"]
    with pytest.raises(CodecctlError, match=f"the codes: of the model {'0' * 16}, and this is {files.fingerprint}"):
        files.decode(codes, fingerprint="0" * 16)
    mixed = shutil.copytree(exported[1], tmp_path / "mixed")
    other = (mixed / "decoder_step.onnx").read_bytes().replace(files.fingerprint.encode(), b"0" * 16)
    (mixed / "decoder_step.onnx").write_bytes(other)
    with pytest.raises(CodecctlError, match=r"decoder_step\.onnx: of the model 0{16}.* use the files of one export"):
        OnnxCodec(mixed).stream_decoder()


def test_a_file_of_another_program_is_refused(exported: tuple[Path, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    path = exported[1] / "encoder_model.onnx"
    graph = onnx.load(path)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    with pytest.raises(CodecctlError, match=r"encoder_model\.onnx: not written by codecctl export"):
        OnnxCodec(exported[1])


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodecctlError, match=r"encoder_model\.onnx: no such file"):
        OnnxCodec(tmp_path)
    (tmp_path / "encoder_model.onnx").write_bytes(b"no graph")
    with pytest.raises(CodecctlError, match="onnxruntime cannot load it"):
        OnnxCodec(tmp_path)
    source = Checkpoint.read(find_checkpoint("starter"))
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r'pip install "codecctl\[onnx\]"'):
        write_onnx(source, tmp_path / "onnx")
    with pytest.raises(UsageError, match=r'pip install "codecctl\[onnx\]"'):
        OnnxCodec(tmp_path)
