"""A manifest is read as it was written; errors name the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecctl.data.manifest import Utterance, read_manifest, to_line
from codecctl.errors import CodecctlError
from codecctl.files import write_lines

ONE = Utterance(
    id="corpus/a", source="a.wav", dataset="corpus", language="te", speaker=None, licence="CC-BY-4.0", text="అవును",
    native_sample_rate=48_000, lossy=None, bandwidth_hz=7875.0, level_db=-23.1, clipping=0.0, split="train",
    shard="shards/corpus-00001.pcm", first_sample=0, n_samples=24_000,
)  # fmt: skip


def test_manifest_round_trip(tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", map(to_line, [ONE, ONE]))
    assert list(read_manifest(tmp_path / "m.jsonl")) == [ONE, ONE]
    assert json.loads(to_line(ONE))["seconds"] == ONE.seconds == 1.5


def test_reader_skips_unknown_keys_and_empty_lines(tmp_path: Path) -> None:
    more = {**json.loads(to_line(ONE)), "level_db": -23, "colour": "red"}
    (tmp_path / "m.jsonl").write_text("\ufeff\n" + json.dumps(more) + "\n\n", encoding="utf-8")
    assert next(read_manifest(tmp_path / "m.jsonl")).level_db == -23


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": "many"}, r"'n_samples': .*integer \(it is 'many'\)"),
        ({"speaker": 7}, r"'speaker': .*string \(it is 7\)"),
        ({"split": "test"}, r"'split': .*'train' or 'validation' \(it is 'test'\)"),
        ({"shard": None}, r"'shard': .*string \(it is None\)"),
    ],
)
def test_error_names_the_field_and_its_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    line = json.dumps({**json.loads(to_line(ONE)), **change})
    (tmp_path / "m.jsonl").write_text(to_line(ONE) + line + "\n", encoding="utf-8")
    with pytest.raises(CodecctlError, match=rf"m\.jsonl:2: {message}"):
        list(read_manifest(tmp_path / "m.jsonl"))


def test_error_for_missing_fields_and_invalid_json(tmp_path: Path) -> None:
    bad = [('{"id": "a"}', "'source': is missing"), ('{"id": ', "not valid JSON"), ("[1]", "a JSON object")]
    for text, message in bad:
        (tmp_path / "m.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(CodecctlError, match=rf"m\.jsonl:1: .*{message}"):
            list(read_manifest(tmp_path / "m.jsonl"))


def test_error_for_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match=r"m\.jsonl: cannot be read"):
        list(read_manifest(tmp_path / "m.jsonl"))
