"""A corpus decoded, checked, and read by the libraries of its formats."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import soundfile
import torch

from codecctl.codes import CodeDataset
from codecctl.codes.decode import decode_corpus
from codecctl.codes.folder import read_about, read_manifest
from codecctl.codes.job import encode_corpus
from codecctl.codes.reading import check_corpus, read_utterances
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.load import Codec, save_codec
from tests.codes.test_job import codes_of, contents
from tests.conftest import TINY, lively

FORMATS = ["shards", "webdataset", "parquet"]


@pytest.fixture(scope="module")
def encoded(prepared: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The corpus in a container. For reading only."""

    @cache
    def encode(container: str) -> Path:
        if container == "parquet":
            pytest.importorskip("pyarrow")
        out = tmp_path_factory.mktemp(container) / "codes"
        encode_corpus([prepared], out, model, container=container)
        return out

    return encode


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, encoded: Callable[[str], Path]) -> Path:
    """The corpus in each container. For reading only."""
    return encoded(request.param)


@pytest.fixture
def own(encoded: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A corpus to be damaged."""
    return lambda container: shutil.copytree(encoded(container), tmp_path / "codes")


def test_every_container_holds_the_same_codes(written: Path, corpus: Path) -> None:
    expected = codes_of(corpus)
    found = {utterance.id: codes for utterance, codes in read_utterances(written, read_about(written))}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], codes) for name, codes in expected.items())
    chosen = list(expected)[3]
    ((utterance, codes),) = read_utterances(written, read_about(written), [chosen])
    assert utterance.id == chosen
    assert np.array_equal(codes, expected[chosen])


@pytest.mark.slow
def test_audio_is_that_of_the_codes_and_as_long_as_it_was(written: Path, codec: Codec, tmp_path: Path) -> None:
    assert decode_corpus(written, tmp_path, lambda: codec) == 12
    for utterance, codes in read_utterances(written, read_about(written)):
        audio, rate = soundfile.read(tmp_path / f"{utterance.id}.wav", dtype="float32")
        assert (len(audio), rate) == (utterance.n_samples, 16_000)
        with torch.inference_mode():
            expected = codec.decode(torch.from_numpy(codes.astype(np.int64))[None], length=utterance.n_samples)
        assert np.abs(audio - expected[0, 0].clamp(-1, 1).numpy()).max() < 1e-4


def test_chosen_ids_alone_are_decoded(corpus: Path, codec: Codec, tmp_path: Path) -> None:
    first = next(read_manifest(corpus)).id
    assert decode_corpus(corpus, tmp_path, lambda: codec, ids=[first], suffix=".flac") == 1
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path(f"{first}.flac")]
    with pytest.raises(CodecctlError, match=f"{corpus}: holds no utterance 'gone'"):
        decode_corpus(corpus, tmp_path / "none", lambda: codec, ids=[first, "gone"])
    assert not (tmp_path / "none").exists()


def test_another_model_decodes_nothing(corpus: Path, tmp_path: Path) -> None:
    other = lively(TINY)
    with torch.no_grad():
        other.quantizer.codebooks[0].codewords.add_(0.01)
    save_codec(other, tmp_path / "other.pt")
    with pytest.raises(CodecctlError, match=r"made by the model [0-9a-f]{16}, but the given one is"):
        decode_corpus(corpus, tmp_path / "wav", lambda: Codec.load(tmp_path / "other.pt", "cpu"))
    assert not (tmp_path / "wav").exists()


def test_ids_lead_into_the_folder_alone(own: Callable[[str], Path], codec: Codec, tmp_path: Path) -> None:
    folder = own("shards")
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps({**first, "id": "/../../up/a"})
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    decode_corpus(folder, tmp_path / "a" / "b", lambda: codec, ids=["/../../up/a"])
    assert [path.relative_to(tmp_path / "a") for path in tmp_path.rglob("*.wav")] == [Path("b/up/a.wav")]
    lines[1] = json.dumps({**json.loads(lines[1]), "id": "up/a"})
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="would both be written to"):
        decode_corpus(folder, tmp_path / "c", lambda: codec)


def test_a_whole_corpus_is_checked(written: Path) -> None:
    check = check_corpus(written)
    assert check.problems == []
    assert sum(check.seconds_by["split"].values()) == pytest.approx(read_about(written).seconds, abs=1e-3)
    assert check.seconds_by["language"].keys() == {"en", "es", "it"}
    assert [stats.n_codes for stats in check.codebooks] == 3 * [sum(each.n_frames for each in read_manifest(written))]


def flip(path: Path) -> None:
    """One bit of a code: the length and all headers stay right."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_bytes(b"hello " * 5000)


@pytest.mark.parametrize("damage", [flip, cut, empty, text, Path.unlink])
@pytest.mark.parametrize("container", FORMATS)
def test_damage_is_named_in_one_line(
    own: Callable[[str], Path], codec: Codec, tmp_path: Path, container: str, damage: Callable[[Path], None]
) -> None:
    folder = own(container)
    shard = folder / read_about(folder).shards[0]
    damage(shard)
    (problem,) = check_corpus(folder).problems
    assert problem.startswith(f"{shard}: ")
    assert "\n" not in problem
    with pytest.raises(CodecctlError):
        decode_corpus(folder, tmp_path / "wav", lambda: codec)
    assert not list(tmp_path.glob("wav/**/*.wav"))


def test_a_shard_of_another_model_is_refused(own: Callable[[str], Path]) -> None:
    folder = own("shards")
    shard = folder / read_about(folder).shards[0]
    shard.write_bytes(shard.read_bytes().replace(read_about(folder).fingerprint.encode(), b"0123456789abcdef"))
    (problem,) = check_corpus(folder).problems
    assert "made by the model 0123456789abcdef, but its folder holds codes of" in problem
    with pytest.raises(CodecctlError, match="made by the model 0123456789abcdef"):
        CodeDataset(folder)[0]


def test_an_index_that_does_not_fit_is_named(own: Callable[[str], Path]) -> None:
    folder = own("shards")
    lines = (folder / "manifest.jsonl").read_text().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_text("".join(lines[:-1]))
    problems = check_corpus(folder).problems
    assert [problem.partition(": ")[2] for problem in problems] == [
        "does not fit the manifest; run encode again", "11 lines, codes.json says 12",
    ]  # fmt: skip


def test_a_damaged_index_is_named(own: Callable[[str], Path]) -> None:
    folder = own("shards")
    index = folder / str(read_about(folder).index)
    rows = np.load(index)
    rows["first_frame"][2] += 5
    np.save(index, rows)
    assert check_corpus(folder).problems == [f"{index}: damaged; run encode again"]
    with pytest.raises(CodecctlError, match="damaged; run encode again"):
        CodeDataset(folder)


@pytest.mark.parametrize("written", ["webdataset"], indirect=True)
def test_webdataset_reads_it(written: Path, corpus: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = [str(written / name) for name in read_about(written).shards]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    expected = codes_of(corpus)
    assert [sample["json"]["id"] for sample in samples] == list(expected)
    for sample in samples:
        assert sample["npy"].dtype == np.uint16
        assert np.array_equal(sample["npy"], expected[sample["json"]["id"]])
    utterance = next(read_manifest(written))
    assert all(value == getattr(utterance, key) for key, value in samples[0]["json"].items())


@pytest.mark.parametrize("written", ["parquet"], indirect=True)
def test_pyarrow_reads_it(written: Path, corpus: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row for name in read_about(written).shards for row in parquet.read_table(written / name).to_pylist()]
    expected, utterances = codes_of(corpus), list(read_manifest(written))
    assert [row["id"] for row in rows] == list(expected)
    for row, utterance in zip(rows, utterances, strict=True):
        assert np.array_equal(np.array(row.pop("codes")), expected[utterance.id])
        assert all(value == getattr(utterance, key) for key, value in row.items())


@pytest.mark.parametrize("written", ["shards"], indirect=True)
def test_safetensors_reads_it(written: Path) -> None:
    (name,) = read_about(written).shards
    tensors = safetensors.numpy.load_file(written / name)
    assert (tensors["codes"].dtype, tensors["codes"].shape[1]) == (np.uint16, 3)
    assert tensors["first_frame"][-1] == len(tensors["codes"])


def test_the_same_codes_are_the_same_file(written: Path, prepared: Path, model: Path, tmp_path: Path) -> None:
    container = read_about(written).container
    encode_corpus([prepared], tmp_path, model, container=container, n_workers=1)
    assert contents(tmp_path) == contents(written)


def test_a_missing_package_is_one_line(
    prepared: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r'--format parquet needs pyarrow: pip install "codecctl\[data\]"'):
        encode_corpus([prepared], tmp_path / "codes", model, container="parquet")
    assert not (tmp_path / "codes").exists()


def test_a_tar_with_arrays_of_objects_runs_nothing(own: Callable[[str], Path]) -> None:
    folder = own("webdataset")
    shard = folder / read_about(folder).shards[0]
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    with tarfile.open(shard, "a") as tar:
        member = tarfile.TarInfo("x.npy")
        member.size = len(buffer.getvalue())
        tar.addfile(member, io.BytesIO(buffer.getvalue()))
    (problem,) = check_corpus(folder).problems
    assert "damaged (Object arrays cannot be loaded" in problem


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_tar_whose_member_claims_more_than_there_is_takes_no_memory(own: Callable[[str], Path], kind: bytes) -> None:
    folder = own("webdataset")
    shard = folder / read_about(folder).shards[0]
    member = tarfile.TarInfo("x.npy")
    member.type, member.size = kind, 200 * 2**30 if kind == tarfile.REGTYPE else 0
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if kind == tarfile.GNUTYPE_SPARSE:
        block[483:495] = b"\x80" + (200 * 2**30).to_bytes(11, "big")  # its size with the holes
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:]))
    shard.write_bytes(block + bytes(1024))
    (problem,) = check_corpus(folder).problems
    assert "damaged (x.npy is longer than the file)" in problem
