"""A folder becomes checked shards; bad files are rejected; a second run prepares only what is new."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.config.schema import DataConfig
from codecctl.data.crops import read_utterance
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare import prepare
from codecctl.data.shards import read_index
from codecctl.errors import CodecctlError, UsageError
from codecctl.lock import Lease

CONFIG = DataConfig(validation_share=0.3)


def contents(out: Path) -> dict[str, bytes]:
    """All that a reader of a prepared folder sees."""
    files = [path for path in out.rglob("*") if path.is_file() and not {"units", ".jobs"} & {*path.parts}]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_formats_rates_and_channels_are_converted(tmp_path: Path, speech_files: list[Path]) -> None:
    (tmp_path / "raw").mkdir()
    speech, rate = soundfile.read(speech_files[0], dtype="float32")
    stereo = np.stack([speech, speech], axis=1)
    for name, data, options in [
        ("a.wav", speech, {"subtype": "PCM_24"}), ("b.flac", stereo * 0.5, {}),
        ("c.ogg", speech, {}), ("d.mp3", stereo, {}),
    ]:  # fmt: skip
        soundfile.write(tmp_path / "raw" / name, data, rate, **options)
    prepare([tmp_path / "raw"], tmp_path / "out", CONFIG)
    found = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    assert [utterance.lossy for utterance in found] == [None, None, "vorbis", "mp3"]
    for utterance, gain in zip(found, (1, 0.5, 1, 1), strict=True):
        audio = read_utterance(tmp_path / "out", utterance)[0].numpy()
        assert abs(utterance.n_samples - len(speech)) <= 2000  # MP3 pads
        if utterance.lossy is None:
            np.testing.assert_allclose(audio, gain * speech, atol=1 / 32_768)
        assert utterance.level_db == pytest.approx(20 * np.log10(gain * np.sqrt(np.mean(speech**2))), abs=0.5)


def test_bad_files_are_rejected_with_a_reason(tmp_path: Path, make_recordings: Callable[..., Path]) -> None:
    raw = make_recordings("raw", {"ann": [1.0, 2.0], "bob": [1.0]})
    (raw / "ann" / "picture.wav").write_bytes(b"\xff\xd8\xff\xe0JFIF" * 90)
    (raw / "ann" / "empty.flac").touch()
    soundfile.write(raw / "bob" / "short.wav", np.full(800, 0.1), 16_000)
    soundfile.write(raw / "bob" / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(raw / "bob" / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    shutil.copy(raw / "ann" / "0.wav", raw / "bob" / "copy.wav")
    report = prepare([raw], tmp_path / "out", CONFIG)
    assert (report.n_utterances, report.n_rejected) == (3, 6)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["source"]: line["reason"] for line in rejected}
    expected = {
        "ann/picture.wav": "not audio (a JPEG image)", "ann/empty.flac": "is empty", "bob/short.wav": "too short",
        "bob/silent.wav": "silent", "bob/nan.wav": "holds NaN", "bob/copy.wav": "same sound as raw/ann/0",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    assert all(reasons[source].startswith(reason) for source, reason in expected.items())
    assert report.seconds == pytest.approx(4.0)


def test_list_beside_the_folder_states_speaker_language_licence_and_rate(
    tmp_path: Path, make_recordings: Callable[..., Path]
) -> None:
    raw = make_recordings("raw", {"x": [1.0, 1.0, 1.0, 1.0]})
    rows = [
        "id\tspeaker\tlanguage\tlicence\tnative_rate",
        'x/0\tann "a"\tte\tCC0-1.0\t48000',
        "x/1\tbob\ten\t\t",
        'x/2\tann "a"\tte\tCC0-1.0\t48000',
    ]
    (tmp_path / "raw.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    prepare([raw], tmp_path / "out", CONFIG)
    found = {utterance.id: utterance for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    first, other, untold = found["raw/x/0"], found["raw/x/1"], found["raw/x/3"]
    assert (first.speaker, first.language, first.licence, first.native_sample_rate) == (
        'ann "a"',
        "te",
        "CC0-1.0",
        48_000,
    )
    assert (other.speaker, other.language, other.licence, other.native_sample_rate) == ("bob", "en", None, 16_000)
    assert untold.speaker is None
    # one speaker's clips lie one behind the other
    assert found["raw/x/2"].first_sample == first.first_sample + first.n_samples


def test_no_speaker_is_in_both_splits(tmp_path: Path, make_recordings: Callable[..., Path]) -> None:
    raw = make_recordings("raw", {f"speaker {number}": [0.3] * 3 for number in range(12)})
    prepare([raw], tmp_path / "out", CONFIG)
    found = {(utterance.speaker, utterance.split) for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert len(found) == 12
    assert {split for _, split in found} == {"train", "validation"}


def test_speaker_of_two_datasets_is_one_in_split_and_index(
    tmp_path: Path, make_recordings: Callable[..., Path]
) -> None:
    one = make_recordings("one", {"ann": [0.3], "bob": [0.3]})
    two = make_recordings("two", {"ann": [0.3], "cid": [0.3]}, seed=1)
    prepare([one, two], tmp_path / "out", CONFIG)
    found = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    assert len({utterance.split for utterance in found if utterance.speaker == "ann"}) == 1
    assert len(set(read_index(tmp_path / "out").rows["speaker"])) == 3


def test_second_run_prepares_only_what_is_new(tmp_path: Path, make_recordings: Callable[..., Path]) -> None:
    raw = make_recordings("raw", {"ann": [1.0], "bob": [1.0], "cid": [1.0]})
    assert prepare([raw], tmp_path / "out", CONFIG).n_units_done == 1
    before = contents(tmp_path / "out")
    assert prepare([raw], tmp_path / "out", CONFIG).n_units_done == 0
    assert contents(tmp_path / "out") == before
    splits = {utterance.id: utterance.split for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    make_recordings("more", {"dan": [1.0], "eve": [1.0]}, seed=1)
    make_recordings("raw/fay", {"": [1.0]}, seed=2)
    report = prepare([raw, tmp_path / "more"], tmp_path / "out", CONFIG)
    assert (report.n_units_done, report.n_utterances) == (2, 6)
    after = {utterance.id: utterance.split for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert after | splits == after
    (raw / "ann" / "0.wav").unlink()
    assert prepare([raw], tmp_path / "out", CONFIG).n_utterances == 5
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3


def test_recordings_that_another_command_adds_meanwhile_stay(
    tmp_path: Path, make_recordings: Callable[..., Path]
) -> None:
    first = make_recordings("first", {"ann": [1.0], "bob": [1.0]})
    second = make_recordings("second", {"cid": [1.0]}, seed=1)
    reports = []

    def meanwhile(n_done: int, n_items: int) -> None:
        reports.append(prepare([second], tmp_path / "out", CONFIG))

    reports.append(prepare([first], tmp_path / "out", CONFIG, on_progress=meanwhile))
    assert [report.n_utterances for report in reports] == [3, 3]
    found = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
    assert {utterance.dataset for utterance in found} == {"first", "second"}
    assert all((tmp_path / "out" / utterance.shard).is_file() for utterance in found)


def test_two_sources_of_the_same_name_get_different_ids(tmp_path: Path, make_recordings: Callable[..., Path]) -> None:
    first = make_recordings("a/train", {"ann": [1.0], "bob": [1.0]})
    second = make_recordings("b/train", {"cid": [1.0]}, seed=1)
    prepare([first, second], tmp_path / "out", CONFIG)
    ids = {utterance.id for utterance in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert ids == {"train/ann/0", "train/bob/0", "b-train/cid/0"}


@pytest.mark.parametrize("name", ["codes.json", "last.pt", "corpus.json"])
def test_folders_of_codes_runs_and_downloads_stay_as_they_are(
    tmp_path: Path, make_recordings: Callable[..., Path], name: str
) -> None:
    raw, out = make_recordings("raw", {"a": [0.5]}), tmp_path / "out"
    out.mkdir()
    (out / name).touch()
    with pytest.raises(UsageError, match=rf"out: holds other data \({name}\); --out needs a new folder"):
        prepare([raw], out, DataConfig())
    assert [path.name for path in out.iterdir()] == [name]


def test_sources_without_usable_audio_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match="nowhere: no such file or folder"):
        prepare([tmp_path / "nowhere"], tmp_path / "out", CONFIG)
    (tmp_path / "raw").mkdir()
    with pytest.raises(CodecctlError, match="raw: no recordings in it"):
        prepare([tmp_path / "raw"], tmp_path / "out", CONFIG)
    (tmp_path / "raw" / "prepared.json").touch()
    with pytest.raises(CodecctlError, match="raw: is prepared already; --data takes it"):
        prepare([tmp_path / "raw"], tmp_path / "out", CONFIG)
    (tmp_path / "raw" / "prepared.json").unlink()
    (tmp_path / "raw" / "a.wav").touch()
    with pytest.raises(CodecctlError, match=r"every recording was rejected; see .*rejected\.jsonl"):
        prepare([tmp_path / "raw"], tmp_path / "out", CONFIG)


@pytest.mark.slow
def test_a_job_that_waits_for_another_says_so(tmp_path: Path, make_recordings: Callable[..., Path]) -> None:
    raw, out, said = make_recordings("raw", {"ann": [1.0]}), tmp_path / "out", list[str]()
    other = Lease(out / ".jobs")
    other.__enter__()
    release = threading.Timer(4, other.__exit__, (None, None, None))
    release.start()
    assert prepare([raw], out, CONFIG, on_wait=said.append).n_utterances == 1
    release.join()
    assert len(said) == 1
    assert said[0].startswith(f"{out}: ")
    assert said[0].endswith(" writes the index; waiting for it to finish")
