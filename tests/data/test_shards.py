"""A shard holds exactly the utterances that were kept, or does not exist; readers detect damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecctl.data.shards import ROW, Index, ShardReader, ShardWriter, read_index, run_edges, write_index
from codecctl.errors import CodecctlError

SAMPLES = np.arange(-500, 500, dtype=np.int16)


def test_dropped_utterance_is_not_in_the_shard(tmp_path: Path) -> None:
    def write(name: str, parts: list[tuple[np.ndarray, bool]]) -> Path:
        with ShardWriter(tmp_path / name) as writer:
            for part, kept in parts:
                writer.append(part[:100])
                writer.append(part[100:])
                writer.keep() if kept else writer.drop()
        assert writer.path is not None
        return writer.path

    path = write("a", [(SAMPLES, True), (SAMPLES * 2, False), (SAMPLES * 3, True)])
    plain = write("b", [(SAMPLES, True), (SAMPLES * 3, True)])
    assert path.read_bytes() == plain.read_bytes()
    assert path.name.removeprefix("a") == plain.name.removeprefix("b")  # the name follows from the content
    np.testing.assert_array_equal(ShardReader(tmp_path).samples(path.name, 1000, 1000), SAMPLES * 3)


def test_failed_or_empty_shard_is_not_written(tmp_path: Path) -> None:

    def write_and_fail() -> None:
        with ShardWriter(tmp_path / "a") as writer:
            writer.append(SAMPLES)
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    with ShardWriter(tmp_path / "b") as writer:
        pass
    assert writer.path is None
    assert not list(tmp_path.iterdir())


def test_index_round_trip(tmp_path: Path) -> None:
    rows = np.zeros(3, ROW)
    rows["n_samples"] = 10, 20, 30
    index = Index(rows, ("shards/a.pcm",), ("corpus",), ("te", None), (None,))
    write_index(tmp_path, index, split_seed=3)
    write_index(tmp_path, index, split_seed=4)
    again = read_index(tmp_path)
    assert (again.shards, again.datasets, again.languages) == (index.shards, index.datasets, index.languages)
    np.testing.assert_array_equal(again.rows, rows)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_changed_index_is_damaged(tmp_path: Path) -> None:
    """Crops would begin at other samples."""
    rows = np.zeros(3, ROW)
    rows["n_samples"] = 10
    write_index(tmp_path, Index(rows, ("shards/a.pcm",), ("corpus",), ("te", None), (None,)), split_seed=3)
    (path,) = tmp_path.glob("index-*.npy")
    rows["first_sample"][1] = 5
    np.save(path, rows)
    with pytest.raises(CodecctlError, match=r"index-\w+\.npy: damaged: its content is not that of its name"):
        read_index(tmp_path)


def test_run_ends_where_speaker_split_or_place_change() -> None:
    rows = np.zeros(6, ROW)
    rows["n_samples"] = 10
    rows["first_sample"] = 0, 10, 20, 30, 40, 55  # a gap before the last
    rows["speaker"] = 0, 0, 1, 1, 1, 1
    rows["split"] = 0, 0, 0, 0, 1, 1
    assert run_edges(rows).tolist() == [0, 2, 4, 5, 6]


def test_reader_errors_say_what_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match="no prepared audio; make a folder of it with `codecctl prepare"):
        read_index(tmp_path)
    (tmp_path / "in.wav").touch()
    with pytest.raises(CodecctlError, match=r"in\.wav: holds no prepared audio; make a folder of it with"):
        read_index(tmp_path / "in.wav")
    (tmp_path / "prepared.json").write_text('{"format": "codecctl.prepared", "version": 99}')
    with pytest.raises(CodecctlError, match=r"prepared\.json: prepared by another version"):
        read_index(tmp_path)
    (tmp_path / "prepared.json").write_text('{"format": "codecctl.prepared", "version": 1}')
    with pytest.raises(CodecctlError, match=r"prepared by an older version of codecctl; run prepare again"):
        read_index(tmp_path)
    (tmp_path / "prepared.json").write_text('{"format": "codecctl.prepared", "version": 2}')
    with pytest.raises(
        CodecctlError, match=r"prepared\.json: 'shards' is not what prepare writes there; run prepare again"
    ):
        read_index(tmp_path)
    (tmp_path / "a.pcm").write_bytes(bytes(20))
    with pytest.raises(CodecctlError, match=r"a\.pcm: is cut off"):
        ShardReader(tmp_path).samples("a.pcm", 5, 6)
    with pytest.raises(CodecctlError, match=r"b\.pcm: cannot be read"):
        ShardReader(tmp_path).samples("b.pcm", 0, 1)
