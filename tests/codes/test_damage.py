"""A corpus of codes with damaged, foreign or missing files, and names of every kind."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codecctl.codes import CodeDataset
from codecctl.codes.decode import decode_corpus
from codecctl.codes.folder import read_manifest
from codecctl.codes.job import encode_corpus
from codecctl.codes.reading import check_corpus
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.load import Codec
from tests.codes.test_job import contents


@pytest.fixture
def own(corpus: Path, tmp_path: Path) -> Path:
    """A corpus to be damaged."""
    return Path(shutil.copytree(corpus, tmp_path / "codes"))


def change_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize("damage", [b'{"id": "half', b"{}\n", b'{"id": 3}\n'])
def test_a_unit_with_damaged_results_is_encoded_again(
    own: Path, corpus: Path, prepared: Path, model: Path, damage: bytes
) -> None:
    """At the second attempt: the first one says what is damaged."""
    (results,) = (own / "units").glob("*.jsonl")
    results.write_bytes(damage)
    with pytest.raises(CodecctlError, match=rf"{results.name}.*; run the same command again$"):
        encode_corpus([prepared], own, model)
    encode_corpus([prepared], own, model)
    assert contents(own) == contents(corpus)


def test_a_unit_with_a_shard_that_is_cut_off_or_without_results_is_encoded_again(
    own: Path, corpus: Path, prepared: Path, model: Path
) -> None:
    (results,), (shard,) = (own / "units").glob("*.jsonl"), (own / "shards").iterdir()
    for damage in (results.unlink, lambda: os.truncate(shard, 500)):
        damage()
        encode_corpus([prepared], own, model)
        assert contents(own) == contents(corpus)


def test_a_shard_with_a_wrong_code_gives_no_items(own: Path) -> None:
    (shard,) = (own / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 1
    shard.write_bytes(data)
    dataset = CodeDataset(own)
    for number in (0, -1):
        with pytest.raises(
            CodecctlError, match=rf"{shard.name}: damaged \(its checksum .*; remove it and run the same"
        ):
            dataset[number]


def test_a_damaged_unit_is_named_and_can_be_removed(own: Path, corpus: Path, prepared: Path, model: Path) -> None:
    (spec,) = (own / "units").glob("*.json")
    spec.write_bytes(spec.read_bytes()[:50])
    with pytest.raises(
        CodecctlError, match=rf"{spec.name}: not valid JSON .*; remove it and run the same command again$"
    ):
        encode_corpus([prepared], own, model)
    spec.unlink()
    encode_corpus([prepared], own, model)
    assert contents(own) == contents(corpus)


@pytest.mark.parametrize("content", ["", "{", '{"version": 2}'])
def test_a_damaged_description_says_what_to_do(own: Path, prepared: Path, model: Path, content: str) -> None:
    before = contents(own).keys()
    (own / "codes.json").write_text(content)
    with pytest.raises(CodecctlError, match=r"codes\.json: .*; encode into a new folder$"):
        encode_corpus([prepared], own, model)
    assert contents(own).keys() == before


def test_a_list_that_lacks_lines_is_not_decoded(own: Path, codec: Codec, tmp_path: Path) -> None:
    change_lines(own / "manifest.jsonl", lambda lines: lines[:-1])
    with pytest.raises(CodecctlError, match=r"manifest\.jsonl: 11 lines, codes\.json says 12; run encode again"):
        decode_corpus(own, tmp_path / "wav", lambda: codec)
    assert not (tmp_path / "wav").exists()


def test_an_id_that_no_file_can_have_does_not_stop_the_others(own: Path, codec: Codec, tmp_path: Path) -> None:
    def lengthen(lines: list[str]) -> list[str]:
        return [json.dumps({**json.loads(lines[0]), "id": 300 * "x"}) + "\n", *lines[1:]]

    change_lines(own / "manifest.jsonl", lengthen)
    with pytest.raises(CodecctlError, match=r"x\.wav: File name too long; 1 of 12 recordings were not written to "):
        decode_corpus(own, tmp_path / "wav", lambda: codec)
    assert len(list((tmp_path / "wav").rglob("*.wav"))) == 11


def test_a_corpus_is_not_decoded_into_itself(own: Path, codec: Codec) -> None:
    before = contents(own)
    with pytest.raises(UsageError, match="is the corpus itself; choose another folder"):
        decode_corpus(own, own / "shards" / "..", lambda: codec)
    assert contents(own) == before


def test_a_missing_package_is_no_damage(
    prepared: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    encode_corpus([prepared], tmp_path / "codes", model, container="parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="needs pyarrow"):
        check_corpus(tmp_path / "codes")


NAMES = [b"a[1]", b"[bold]b[red]", b"new\nline", b"esc\x1b[2J", b"\xff\xfe", b"-dash", b" space", b"{0}%s", b"'\"`$(x)"]


@pytest.mark.parametrize("container", ["shards", "webdataset", "parquet"])
def test_names_of_every_kind_come_back(
    folders: list[Path], model: Path, codec: Codec, tmp_path: Path, container: str
) -> None:
    if container == "parquet":
        pytest.importorskip("pyarrow")
    raw, codes = Path(os.fsdecode(bytes(tmp_path) + b"/\xfd[raw]\n")), Path(os.fsdecode(bytes(tmp_path) + b"/\xfc[c]"))
    raw.mkdir()
    for name in NAMES:
        shutil.copy(next(folders[0].iterdir()), os.path.join(bytes(raw), name + b".wav"))
    encode_corpus([raw], codes, model, container=container)
    assert check_corpus(codes).problems == []
    ids = [utterance.id for utterance in read_manifest(codes)]
    for chosen in (None, *([name] for name in ids)):
        decode_corpus(codes, tmp_path / "wav", lambda: codec, ids=chosen)
    written = {path.name for path in (tmp_path / "wav").rglob("*") if path.is_file()}
    assert written == {os.fsdecode(name) + ".wav" for name in NAMES}
