"""Lists beside audio: names are matched as paths, and what matched is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.config.schema import DataConfig
from codecctl.data.manifest import Utterance, read_manifest
from codecctl.data.prepare import PrepareReport, prepare
from codecctl.errors import CodecctlError

CONFIG = DataConfig(validation_share=0.4)
Maker = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files in a folder `speech`, without a list."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for number in range(6):
        audio = 0.1 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(folder / f"v_{number}.wav", audio, 16_000)
    return folder


def write_list(folder: Path, header: str, row: str) -> None:
    """Three speakers of two files each; `{}` in `row` is the stem of a file."""
    rows = [f"{row.format(f'v_{number}')},spk{number // 2}" for number in range(6)]
    (folder / "metadata.csv").write_text("\n".join([f"{header},speaker", *rows]), encoding="utf-8")


def prepared(source: Path) -> tuple[PrepareReport, dict[str, Utterance]]:
    out = source.parent / "out"
    report = prepare([source], out, CONFIG)
    return report, {utterance.source: utterance for utterance in read_manifest(out / "manifest.jsonl")}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file_name", "{}.wav"),
        ("file_name", "{}"),
        ("file_name", "./{}.wav"),
        ("file_name", "speech/{}.wav"),
        ("file_name", "{}.WAV"),
        ("wav_path", ".\\{}.wav"),
        ("audio", "{}.wav"),
    ],
)
def test_list_matches_files_however_their_paths_are_written(folder: Path, header: str, row: str) -> None:
    write_list(folder, header, row)
    report, found = prepared(folder)
    assert {name: utterance.speaker for name, utterance in found.items()} == {
        f"v_{number}.wav": f"spk{number // 2}" for number in range(6)
    }
    assert any("6 of 6 rows match a file, 6 of 6 files are listed" in note for note in report.notes)


def test_list_tells_a_file_from_one_in_a_folder_of_the_same_name(folder: Path) -> None:
    (folder / "speech").mkdir()
    (folder / "v_1.wav").rename(folder / "speech" / "v_0.wav")
    (folder / "metadata.csv").write_text("path,speaker\nv_0.wav,ann\nspeech/v_0.wav,bob\nspeech/v_2.wav,cid\n")
    _, found = prepared(folder)
    speakers = {name: utterance.speaker for name, utterance in found.items() if utterance.speaker}
    assert speakers == {"v_0.wav": "ann", "speech/v_0.wav": "bob", "v_2.wav": "cid"}


def test_list_matches_names_in_either_unicode_form(folder: Path) -> None:
    (folder / "v_0.wav").rename(folder / "e\N{COMBINING ACUTE ACCENT}.wav")
    (folder / "metadata.csv").write_text("path,speaker\n\N{LATIN SMALL LETTER E WITH ACUTE}.wav,ann\n", "utf-8")
    _, found = prepared(folder)
    assert [utterance.speaker for utterance in found.values()].count("ann") == 1


def test_list_that_matches_no_file_is_an_error_with_an_example(folder: Path) -> None:
    write_list(folder, "file_name", "other/{}.wav")
    with pytest.raises(CodecctlError, match=r"metadata\.csv: none of its 6 rows names a file .*'other/v_0\.wav'"):
        prepared(folder)


def test_list_without_a_column_of_names_is_reported_and_not_used(folder: Path) -> None:
    write_list(folder, "number", "{}")
    report, found = prepared(folder)
    assert any("not used: no column names the recordings" in note for note in report.notes)
    assert len(found) == 6


def test_list_above_the_folder_is_reported(folder: Path) -> None:
    (folder.parent / "metadata.csv").write_text("path,speaker\nspeech/v_0.wav,ann\n")
    report, _ = prepared(folder)
    assert any(f"is not read for {folder}; prepare {folder.parent}" in note for note in report.notes)


def test_prepare_reports_columns_and_how_many_items_have_speaker_language_and_transcript(folder: Path) -> None:
    rows = ["filename,speaker_id,locale,sentence", "v_0.wav,ann,te,ఒక", "v_1.wav,bob,,", "gone.wav,cid,te,"]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    report, _ = prepared(folder)
    assert "columns filename (file), locale (language), speaker_id (speaker), sentence (text)" in report.notes[0]
    assert "2 of 3 rows match a file, 2 of 6 files are listed" in report.notes[0]
    assert "6 recordings, 2 with a speaker, 1 with a language, 1 with a transcript" in report.notes[1]


@pytest.mark.parametrize("column", ["text", "transcript", "sentence", "transcription", "normalized_text"])
def test_transcripts_of_a_list_reach_the_manifest(folder: Path, column: str) -> None:
    (folder / "metadata.csv").write_text(f'path,{column}\nv_0.wav,"one, two"\nv_1.wav,\n', encoding="utf-8")
    _, found = prepared(folder)
    assert [found[f"v_{number}.wav"].text for number in range(3)] == ["one, two", None, None]


def test_transcripts_of_a_jsonl_source_reach_the_manifest(folder: Path) -> None:
    lines = [{"audio_filepath": f"speech/v_{number}.wav", "text": f"number {number}"} for number in range(3)]
    source = folder.parent / "list.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    _, found = prepared(source)
    assert {utterance.text for utterance in found.values()} == {"number 0", "number 1", "number 2"}


def test_a_folder_that_cannot_be_listed_is_an_error_and_keeps_what_was_prepared(
    make_recordings: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_recordings("raw", {"ann": [1.0], "bob": [1.0], "cid": [1.0]})
    prepare([raw], tmp_path / "out", CONFIG)
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    scandir = os.scandir

    def stale(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("bob"):
            raise OSError(116, "Stale file handle", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", stale)
    with pytest.raises(CodecctlError, match=r"raw/bob: this folder cannot be listed \(Stale file handle\)"):
        prepare([raw], tmp_path / "out", CONFIG)
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
    monkeypatch.undo()
    assert prepare([raw], tmp_path / "out", CONFIG).n_utterances == 3


def test_a_single_speaker_is_split_by_recording_and_stays_so(make_recordings: Maker, tmp_path: Path) -> None:
    raw = make_recordings("raw", {"wavs": [0.5] * 6})
    report = prepare([raw], tmp_path / "out", CONFIG)
    first = {utterance.id: utterance.split for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert set(first.values()) == {"train", "validation"}
    assert any("one speaker, 'wavs': the validation split is by recording" in note for note in report.notes)
    make_recordings("raw", {"second": [0.5] * 3}, seed=1)
    report = prepare([raw], tmp_path / "out", CONFIG)
    found = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    assert {utterance.id: utterance.split for utterance in found if utterance.id in first} == first
    assert len({utterance.split for utterance in found if utterance.speaker == "second"}) == 1
    assert not any("one speaker" in note for note in report.notes)
