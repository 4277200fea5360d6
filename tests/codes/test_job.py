"""What `encode_corpus` writes, whatever the source, and that others need not wait or fear for it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from codecctl.audio import pyav
from codecctl.audio.files import read_audio
from codecctl.codes import job
from codecctl.codes.folder import read_about, read_complete, read_manifest
from codecctl.codes.job import encode_corpus
from codecctl.codes.shards import ShardReader
from codecctl.codes.sources import read_items
from codecctl.data.manifest import read_manifest as read_prepared
from codecctl.data.prepare.items import AudioItem
from codecctl.data.shards import ShardReader as AudioShards
from codecctl.data.shards import to_float
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.load import Codec, save_codec
from codecctl.lock import Lease
from tests.conftest import CLIPS, TINY, lively, write_audio

VOLATILE = (".jobs", "units")


def contents(out: Path) -> dict[str, bytes]:
    """All that a reader sees."""
    files = [path for path in out.rglob("*") if path.is_file() and not set(path.parts) & set(VOLATILE)]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def codes_of(out: Path) -> dict[str, np.ndarray]:
    """The codes of each utterance by its id, read from the shards alone."""
    found = {}
    for utterance in read_manifest(out):
        tensors = safetensors.numpy.load_file(out / utterance.shard)
        first, last = tensors["first_frame"][utterance.row : utterance.row + 2]
        assert last - first == utterance.n_frames
        found[utterance.id] = tensors["codes"][first:last].T
    return found


def alone(codec: Codec, audio: np.ndarray) -> np.ndarray:
    """`[L]` -> `[K, T]`"""
    with torch.inference_mode():
        return codec.encode(torch.from_numpy(np.ascontiguousarray(audio)).reshape(1, 1, -1))[0].numpy()


@pytest.fixture(scope="module")
def whole(folders: list[Path], model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "codes"
    encode_corpus(folders, out, model)
    return contents(out)


def test_a_prepared_folder_keeps_what_is_known_of_it(corpus: Path, prepared: Path, codec: Codec) -> None:
    codes, audio = codes_of(corpus), AudioShards(prepared)
    utterances = list(read_prepared(prepared / "manifest.jsonl"))
    assert [each.id for each in read_manifest(corpus)] == [each.id for each in utterances]
    for ours, theirs in zip(read_manifest(corpus), utterances, strict=True):
        for key in ("dataset", "language", "speaker", "licence", "text", "split", "n_samples"):
            assert getattr(ours, key) == getattr(theirs, key)
        samples = to_float(audio.samples(theirs.shard, theirs.first_sample, theirs.n_samples))
        assert np.array_equal(codes[ours.id], alone(codec, samples))
    about = read_complete(corpus)
    assert (about.fingerprint, about.codebook_sizes) == (codec.fingerprint, (64, 16, 8))
    assert (about.n_utterances, about.n_failed) == (12, 0)
    assert about.seconds == pytest.approx(sum(each.seconds for each in utterances))


def test_a_shard_names_its_model_and_has_a_checksum(corpus: Path, codec: Codec) -> None:
    with safetensors.safe_open(next((corpus / "shards").iterdir()), "numpy") as file:
        header = json.loads(file.metadata()["codecctl"])
    assert (header["fingerprint"], header["codebook_sizes"]) == (codec.fingerprint, [64, 16, 8])
    assert len(header["checksum"]) == 8


def test_a_list_with_parts_of_files_and_texts(model: Path, codec: Codec, tmp_path: Path) -> None:
    path = CLIPS / "en-allison" / "invalid.flac"
    lines = [
        {"audio_filepath": str(path), "offset": 1.0, "duration": 2.0, "text": "try again", "split": "dev"},
        {"audio_filepath": str(path), "speaker": "allison", "split": "test"},
        {"audio_filepath": str(path), "offset": 3.0, "duration": 9.0},
        {"audio_filepath": "gone.wav"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = encode_corpus([tmp_path / "list.jsonl"], tmp_path / "codes", model)
    assert (report.n_done, report.n_failed) == (4, 2)
    found = {(each.text, each.speaker): each for each in read_manifest(tmp_path / "codes")}
    part, all_of_it = found["try again", None], found[None, "allison"]
    assert (part.split, all_of_it.split) == ("validation", None)
    audio = read_audio(path)[0][0]
    codes = codes_of(tmp_path / "codes")
    assert np.array_equal(codes[part.id], alone(codec, audio[16_000:48_000]))
    assert np.array_equal(codes[all_of_it.id], alone(codec, audio))
    failed = [json.loads(line) for line in (tmp_path / "codes" / "failed.jsonl").read_text().splitlines()]
    reasons = {line["source"].rpartition("/")[2]: line["failed"] for line in failed}
    assert reasons["gone.wav"] == "no such file"
    assert reasons["invalid.flac@3"].startswith("ends after 1.11 of the 9.00 s")


def test_parquet_of_audio(model: Path, codec: Codec, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(CLIPS.rglob("*.flac"))[:3]
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    columns = {"audio": cells, "text": ["a", "b", "c"], "split": ["train", None, "validation"]}
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet")
    encode_corpus([tmp_path / "x.parquet"], tmp_path / "codes", model)
    codes = codes_of(tmp_path / "codes")
    assert [utterance.split for utterance in read_manifest(tmp_path / "codes")] == columns["split"]
    for utterance, path in zip(read_manifest(tmp_path / "codes"), files, strict=True):
        assert np.array_equal(codes[utterance.id], alone(codec, read_audio(path)[0]))


def test_some_codebooks_are_the_first_ones(prepared: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    encode_corpus([prepared], tmp_path, model, n_quantizers=2)
    assert all(np.array_equal(codes_of(tmp_path)[name], codes[:2]) for name, codes in codes_of(corpus).items())
    with pytest.raises(UsageError, match=r"holds codes of the codebook sizes \(64, 16\)"):
        encode_corpus([prepared], tmp_path, model)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(folders: list[Path], model: Path, whole: Any, tmp_path: Path) -> None:
    seen = []
    encode_corpus(
        folders, tmp_path, model, n_workers=2, on_progress=lambda report: seen.append((report.n_done, report.seconds))
    )
    assert contents(tmp_path) == whole
    assert [done for done, _ in seen] == [6, 12, 18, 24]
    assert seen[-1][1] == pytest.approx(read_about(tmp_path).seconds)


def test_jobs_of_an_array_write_the_same_bytes(folders: list[Path], model: Path, whole: Any, tmp_path: Path) -> None:
    reports = [encode_corpus(folders, tmp_path, model, shard=(part, 3)) for part in (2, 3, 1)]
    assert [report.n_recordings for report in reports] == [6, 6, 12]
    assert [report.n_units_left for report in reports] == [3, 2, 0]
    assert [report.about is None for report in reports] == [True, True, False]
    assert contents(tmp_path) == whole


def test_a_folder_is_not_complete_before_its_last_unit(folders: list[Path], model: Path, tmp_path: Path) -> None:
    encode_corpus(folders, tmp_path, model, shard=(1, 4))
    with pytest.raises(CodecctlError, match="is not complete; run the same"):
        read_complete(tmp_path)


def test_a_second_run_does_nothing_and_new_recordings_are_added(
    folders: list[Path], model: Path, whole: Any, tmp_path: Path
) -> None:
    assert encode_corpus(folders[:2], tmp_path, model).n_done == 12
    assert encode_corpus(folders[:2], tmp_path, model).n_done == 0
    assert encode_corpus(folders, tmp_path, model).n_done == 12
    assert contents(tmp_path) == whole


def test_a_lost_shard_is_encoded_again(folders: list[Path], model: Path, whole: Any, tmp_path: Path) -> None:
    encode_corpus(folders, tmp_path, model)
    next((tmp_path / "shards").iterdir()).unlink()
    assert encode_corpus(folders, tmp_path, model).n_done == 6
    assert contents(tmp_path) == whole


PROGRAM = """
import sys
from codecctl.codes.job import encode_corpus
out, model, *folders = sys.argv[1:]
def say(report):
    print(report.n_done, flush=True)
    sys.stdin.readline()
encode_corpus(folders, out, model, on_progress=say)
"""


@contextmanager
def running(folders: list[Path], model: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that encodes there, and waits after each unit."""
    arguments = [sys.executable, "-c", PROGRAM, out, model, *folders]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "6\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_killed_after_a_unit_it_goes_on_with_the_next(
    folders: list[Path], model: Path, whole: Any, tmp_path: Path
) -> None:
    with running(folders, model, tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
    (done,) = (tmp_path / "units").glob("*.done")
    before = done.stat().st_mtime_ns
    assert encode_corpus(folders, tmp_path, model).n_done == 18
    assert done.stat().st_mtime_ns == before
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_a_second_process_is_refused(folders: list[Path], model: Path, tmp_path: Path) -> None:
    with running(folders, model, tmp_path):
        for shard in ((1, 1), (2, 3)):
            with pytest.raises(UsageError, match=rf"{tmp_path}: another process encodes there \(process \d+ on"):
                encode_corpus(folders, tmp_path, model, shard=shard)
        assert len(list((tmp_path / "units").glob("*.done"))) == 1


def test_jobs_of_an_array_run_at_the_same_time(folders: list[Path], model: Path, tmp_path: Path) -> None:
    with Lease(tmp_path / ".jobs" / "2-of-2"):
        encode_corpus(folders, tmp_path, model, shard=(1, 2))


def test_codes_of_another_model_stay(prepared: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    other = lively(TINY)
    with torch.no_grad():
        other.quantizer.codebooks[0].codewords.add_(0.01)
    save_codec(other, tmp_path / "other.pt")
    before = contents(corpus)
    with pytest.raises(UsageError, match=r"holds codes of the model [0-9a-f]{16}, and these would be [0-9a-f]{16}"):
        encode_corpus([prepared], corpus, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="holds codes with --format shards, and these would be webdataset"):
        encode_corpus([prepared], corpus, model, container="webdataset")
    assert contents(corpus) == before


def test_of_two_models_that_start_in_a_new_folder_one_is_refused(
    folders: list[Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    save_codec(Codec(TINY), tmp_path / "other.pt")
    out = tmp_path / "codes"

    def read_while_another_starts(*arguments: Any, **options: Any) -> list[AudioItem]:
        monkeypatch.setattr(job, "read_items", read_items)
        encode_corpus(folders[:1], out, tmp_path / "other.pt", shard=(2, 2))
        return read_items(*arguments, **options)

    monkeypatch.setattr(job, "read_items", read_while_another_starts)
    with pytest.raises(UsageError, match="holds codes of the model"):
        encode_corpus(folders[1:], out, model, shard=(1, 2))
    assert len(list((out / "units").glob("*.json"))) == 1


def test_recordings_that_failed_without_pyav_are_tried_again_with_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av")
    source, out = tmp_path / "source", tmp_path / "codes"
    source.mkdir()
    write_audio(source / "a.wav", np.zeros((1, 4000), np.float32), 16_000)
    with av.open(str(source / "b.mka"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    with monkeypatch.context() as without:
        without.setattr(pyav, "is_installed", lambda: False)
        assert [encode_corpus([source], out, model).n_failed for _ in range(2)] == [1, 0]
    assert encode_corpus([source], out, model).n_done == 2
    assert read_about(out).n_failed == 0


@pytest.mark.parametrize("name", ["last.pt", "corpus.json"])
def test_the_folder_of_a_run_or_a_download_is_no_place_for_codes(
    prepared: Path, model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"holds other data \({name}\); --out-dir needs a new folder"):
        encode_corpus([prepared], tmp_path, model)
    assert {path.name for path in tmp_path.iterdir()} <= {name, ".jobs"}


def test_prepared_audio_stays(prepared: Path, model: Path) -> None:
    before = contents(prepared)
    with pytest.raises(UsageError, match=r"holds other data \(prepared.json\); --out-dir needs a new folder"):
        encode_corpus([prepared], prepared, model)
    assert contents(prepared) == before


def test_a_full_disk_loses_nothing(folders: list[Path], model: Path, whole: Any, tmp_path: Path) -> None:
    encode_corpus(folders[:1], tmp_path, model)
    shards, limits = set((tmp_path / "shards").iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # fails as a full disk does
    try:
        with pytest.raises(OSError, match="File too large"):
            encode_corpus(folders, tmp_path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set((tmp_path / "shards").glob("*.safetensors")) >= shards
    assert not list(tmp_path.rglob("*.partial"))
    encode_corpus(folders, tmp_path, model)
    assert contents(tmp_path) == whole


def test_every_recording_failed(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(CodecctlError, match="every recording failed; see"):
        encode_corpus([source], tmp_path / "codes", model)


def test_a_source_without_recordings_leaves_no_codes(model: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(CodecctlError, match="no recordings in it"):
        encode_corpus([tmp_path / "source"], tmp_path / "codes", model)
    assert contents(tmp_path) == {}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(path: Path) -> None:
    path.write_bytes(b"hello")


@pytest.mark.parametrize("damage", [cut, swap, Path.unlink])
def test_a_damaged_shard_is_one_line(
    folders: list[Path], model: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    encode_corpus(folders[:1], tmp_path, model)
    about = read_about(tmp_path)
    damage(tmp_path / about.shards[0])
    with pytest.raises(CodecctlError, match=rf"^{tmp_path / about.shards[0]}: [^\n]*run the same `codecctl encode`"):
        ShardReader(tmp_path, about).codes(about.shards[0], 0, 10)


def test_stereo_at_another_rate_is_encoded_as_a_file_is(model: Path, codec: Codec, tmp_path: Path) -> None:
    from codecctl.inference.files import encode_file

    random = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    write_audio(tmp_path / "source" / "a.wav", random.normal(0, 0.1, (2, 50_000)).astype(np.float32), 22_050)
    encode_corpus([tmp_path / "source"], tmp_path / "codes", model)
    (codes,) = codes_of(tmp_path / "codes").values()
    encode_file(codec, tmp_path / "source" / "a.wav", tmp_path / "a.npy")
    assert np.array_equal(codes, np.load(tmp_path / "a.npy"))
