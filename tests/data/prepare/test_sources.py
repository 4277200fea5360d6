"""Every kind of source gives the same facts about the same recordings."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codecctl.config.schema import DataConfig
from codecctl.data.crops import read_utterance
from codecctl.data.manifest import Utterance, read_manifest
from codecctl.data.prepare import prepare
from codecctl.data.prepare.sources import read_source
from codecctl.errors import CodecctlError

CONFIG = DataConfig(min_seconds=0.1, validation_share=0)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))


def prepared(source: Path, out: Path) -> dict[str, Utterance]:
    prepare([source], out, CONFIG)
    return {utterance.id: utterance for utterance in read_manifest(out / "manifest.jsonl")}


def test_jsonl_list_selects_parts_of_files(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", noise(3), 16_000)
    soundfile.write(tmp_path / "b.flac", noise(1, 1), 16_000)
    lines = [
        {"audio_filepath": "audio/a.wav", "offset": 0.5, "duration": 1.0, "speaker": "ann", "lang": "te", "text": "x"},
        {"audio_filepath": "audio/a.wav", "offset": 2.0, "speaker": "ann"},
        {"audio_filepath": str(tmp_path / "b.flac"), "duration": 1.0, "dataset": "other", "license": "CC0-1.0"},
        {"audio_filepath": "gone.wav", "duration": 1.0},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = prepared(tmp_path / "list.jsonl", tmp_path / "out")
    stretch, rest = found["list/audio/a@0.5"], found["list/audio/a@2"]
    assert (stretch.seconds, stretch.speaker, stretch.language, rest.seconds) == (1.0, "ann", "te", 1.0)
    audio = read_utterance(tmp_path / "out", stretch)[0].numpy()
    np.testing.assert_allclose(audio, noise(3)[8000:24_000], atol=1 / 32_768)
    assert next(u for u in found.values() if u.dataset == "other").licence == "CC0-1.0"
    assert "gone.wav" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_jsonl_list_selects_channels_of_files(tmp_path: Path) -> None:
    left, right, other = (noise(2, seed) for seed in range(3))
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), 16_000)
    # What is wrong with one speaker's channel does not matter to the other's.
    soundfile.write(tmp_path / "loud.wav", np.stack([np.sign(left), other], axis=1), 16_000)
    parts = [("call", 0, 0), ("call", 1, 0), ("call", 1, 0.5), ("call", 2, 0), ("loud", 0, 0), ("loud", 1, 0.5)]
    lines = [
        {"audio_filepath": f"{name}.wav", "channel": channel, "speaker": f"{name}{channel}"}
        | ({"offset": start, "duration": 1.0} if start else {})
        for name, channel, start in parts
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = prepared(tmp_path / "list.jsonl", tmp_path / "out")
    expected = {
        "call-ch0": left,
        "call-ch1": right,
        "call@0.5-ch1": right[8000:24_000],
        "loud@0.5-ch1": other[8000:24_000],
    }
    assert found.keys() == {f"list/{name}" for name in expected}
    for name, samples in expected.items():
        utterance = found[f"list/{name}"]
        assert utterance.speaker == name[:4] + name[-1]
        audio = read_utterance(tmp_path / "out", utterance)[0].numpy()
        np.testing.assert_allclose(audio, samples, atol=1 / 32_768)
    rejected = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    reasons = {line["source"]: line["reason"] for line in rejected}
    assert reasons.keys() == {"call.wav-ch2", "loud.wav-ch0"}
    assert reasons["call.wav-ch2"] == "no channel 2; it has 2 channels, numbered from 0"
    assert "clipped" in reasons["loud.wav-ch0"]


def test_every_line_of_a_jsonl_list_is_prepared_or_rejected(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(4), 16_000)
    parts = [(0.5, 1.0), (0.5, 2.0), (1.0000001, 0.5), (1.0000002, 1.5), (3, 0.5), (0.5, 1.0), (3.25, None)]
    lines = [{"audio_filepath": "a.wav", "offset": start, "duration": length} for start, length in parts]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = prepared(tmp_path / "list.jsonl", tmp_path / "out")
    assert {name: round(utterance.seconds, 3) for name, utterance in found.items()} == {
        "list/a.wav@0.5+1.0": 1.0, "list/a.wav@0.5+2.0": 2.0, "list/a.wav@1.0000001+0.5": 0.5,
        "list/a.wav@1.0000002+1.5": 1.5, "list/a@3": 0.5, "list/a@3.25": 0.75,
    }  # fmt: skip
    (rejected,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (rejected["source"], rejected["reason"].partition(" (")[0]) == ("a.wav@0.5+1.0#2", "listed before")


def test_keys_of_a_jsonl_list_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    lines = [{"path": "a.wav", "offset": 1, "lang": "te", "channel": name, "emotion": "none"} for name in ("near", 1)]
    notes: list[str] = []
    for kept in (6, 3):
        source = tmp_path / f"{kept}.jsonl"
        source.write_text("\n".join(json.dumps(dict(list(line.items())[:kept])) for line in lines))
        read_source(source, "list", note=notes.append)
    mixed = "all channels are mixed to one unless 'channel' is a number, from 0"
    expected = f"keys not used: channel, emotion; {mixed}"
    assert [note for note in notes if "not used" in note] == [f"{tmp_path / '6.jsonl'}: {expected}"]


def test_error_in_a_jsonl_list_names_its_line(tmp_path: Path) -> None:
    for line, message in [
        ('{"duration": 1}', "'audio_filepath' is missing"),
        ('{"path": "a", "offset": "x"}', "'offset'"),
        ('{"path": "."}', "names no file: '.'"),
        ('{"path": "a", "channel": -1}', "'channel' must be 0, 1, ..., not -1"),
        (r'{"path": "a\u0000.wav"}', "names no file"),
    ]:
        (tmp_path / "list.jsonl").write_text(line)
        with pytest.raises(CodecctlError, match=rf"list\.jsonl:1: .*{message}"):
            read_source(tmp_path / "list.jsonl", "list", note=print)


def test_rate_that_is_none_is_not_taken_from_a_list(tmp_path: Path) -> None:
    for rate, taken in [("48000", 48_000), ("44100.0", 44_100), ("9" * 400, None), ("-5", None), ("", None)]:
        (tmp_path / "list.jsonl").write_text(json.dumps({"path": "a.wav", "native_rate": rate}))
        (item,) = read_source(tmp_path / "list.jsonl", "list", note=print)
        assert item.native_rate == taken


def make_parquet(path: Path, tmp_path: Path, *, rows: int, row_group_size: int) -> None:
    import pyarrow
    from pyarrow import parquet

    cells = []
    for row in range(rows):
        soundfile.write(tmp_path / "cell.flac", noise(0.2 + 0.1 * row, row), 16_000)
        cells.append({"bytes": (tmp_path / "cell.flac").read_bytes(), "path": f"{row}.flac"})
    cells[2] = {"bytes": b"no audio", "path": "2.flac"}
    cells[3] = {"bytes": None, "path": "3.flac"}
    columns = {"audio": cells, "speaker_id": [row % 2 for row in range(rows)], "text": ["x"] * rows}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)


def test_parquet_rows_are_prepared_or_rejected_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    make_parquet(tmp_path / "hub" / "data" / "train.parquet", tmp_path, rows=10, row_group_size=4)
    found = prepared(tmp_path / "hub", tmp_path / "out")
    assert sorted(found) == [f"hub/data/train#{row:07d}" for row in (0, 1, 4, 5, 6, 7, 8, 9)]
    for row in (0, 5, 9):
        utterance = found[f"hub/data/train#{row:07d}"]
        assert (utterance.speaker, utterance.dataset) == (str(row % 2), "hub")
        audio = read_utterance(tmp_path / "out", utterance)[0].numpy()
        np.testing.assert_allclose(audio, noise(0.2 + 0.1 * row, row), atol=1 / 32_768)
    four, six = found["hub/data/train#0000004"], found["hub/data/train#0000006"]
    assert six.first_sample == four.first_sample + four.n_samples  # a row group's speakers lie together
    reasons = (tmp_path / "out" / "rejected.jsonl").read_text()
    assert "the bytes are missing" in reasons
    assert '"reason": "not audio (a text file)' in reasons


def test_broken_parquet_file_does_not_stop_the_others(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "hub").mkdir()
    make_parquet(tmp_path / "hub" / "good.parquet", tmp_path, rows=5, row_group_size=5)
    (tmp_path / "hub" / "bad.parquet").write_bytes((tmp_path / "hub" / "good.parquet").read_bytes()[:-100])
    assert len(prepared(tmp_path / "hub", tmp_path / "out")) == 3
    assert "cannot be read as Parquet" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_what_was_rejected_for_want_of_pyav_is_tried_again_with_it(
    tmp_path: Path, speech_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its suffix: a file is recognised by its bytes."""
    pytest.importorskip("av")
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    shutil.copy(Path(__file__).parents[2] / "inputs" / "mpeg4_named.mp3", raw / "a.mp3")
    shutil.copy(speech_files[0], raw / "b.flac")
    monkeypatch.setitem(sys.modules, "av", None)
    assert set(prepared(raw, out)) == {"raw/b"}
    assert "needs PyAV" in (out / "rejected.jsonl").read_text()
    monkeypatch.undo()
    assert set(prepared(raw, out)) == {"raw/a", "raw/b"}
    monkeypatch.setitem(sys.modules, "av", None)
    assert set(prepared(raw, out)) == {"raw/a", "raw/b"}  # what there is stays


def test_formats_that_only_pyav_decodes(tmp_path: Path, speech_files: list[Path]) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "raw").mkdir()
    speech, rate = soundfile.read(speech_files[0], dtype="float32")
    for name, codec in [("a.m4a", "aac"), ("b.g722", "g722")]:
        with av.open(str(tmp_path / "raw" / name), "w", format=None if codec == "aac" else codec) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(speech[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            fit = av.AudioResampler(stream.format, "mono", rate, stream.codec_context.frame_size or None)
            for part in [*fit.resample(frame), *fit.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    (np.rint(speech * 32_767).astype("<i2")).tofile(tmp_path / "raw" / "c.sln16")
    (tmp_path / "raw" / "bad.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    found = prepared(tmp_path / "raw", tmp_path / "out")
    assert {key: utterance.lossy for key, utterance in found.items()} == {
        "raw/a": "aac",
        "raw/b": "g722",
        "raw/c": None,
    }
    for utterance in found.values():
        assert abs(utterance.n_samples - len(speech)) < 4096
        assert utterance.level_db == pytest.approx(10 * np.log10(np.mean(speech**2)), abs=0.5)


def make_corpus(folder: Path) -> None:
    """A downloaded corpus of three recordings."""
    from codecctl.data.download.corpus import MARKER_NAME, Marker
    from codecctl.data.download.recipes import Corpus

    corpus = Corpus.model_validate({
        "name": "mini-te", "title": "A corpus of two", "languages": ["te"],
        "licence": {"name": "CC-BY-4.0", "url": "x"},
        "source": {"kind": "http", "addresses": ["http://localhost/{name}"], "files": [{"name": "a.tar"}]},
        "layout": {"audio": "**/*.wav", "pattern": "(?P<speaker>[^/_]+)_[^/]*$", "lossy": "aac"},
        "verified": {"address": "U", "files": "U", "licence": "U", "layout": "U", "speaker": "U"},
    })  # fmt: skip
    (folder / "wavs").mkdir(parents=True)
    for number, name in enumerate(("ann_1", "bob_1", "ann_2")):
        soundfile.write(folder / "wavs" / f"{name}.wav", noise(1, number), 16_000)
    marker = Marker(corpus=corpus, files=(), n_audio_files=3, finished="2026-01-01")
    (folder / MARKER_NAME).write_text(marker.model_dump_json())


def test_downloaded_corpus_is_described_by_its_recipe(tmp_path: Path) -> None:
    make_corpus(tmp_path / "raw" / "mini-te")
    found = prepared(tmp_path / "raw", tmp_path / "out")
    one = found["mini-te/wavs/ann_1"]
    assert (one.speaker, one.language, one.licence, one.lossy) == ("ann", "te", "CC-BY-4.0", "aac")
    assert found["mini-te/wavs/ann_2"].first_sample == one.first_sample + one.n_samples


def test_what_is_left_out_beside_downloaded_corpora_is_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make_corpus(raw / "mini-te")
    for name in ("half", "mine", ".hidden"):
        (raw / name).mkdir()
        soundfile.write(raw / name / "a.wav", noise(1), 16_000)
    (raw / "half" / ".lease-000001").touch()
    report = prepare([raw], tmp_path / "out", CONFIG)
    assert report.n_utterances == 3
    assert [note for note in report.notes if "left out" in note] == [
        f"{raw / 'half'}: left out: its download is not finished",
        f"{raw / 'mine'}: left out: no downloaded corpus; name it as a source if it holds recordings",
    ]


def test_current_folder_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw" / "ann").mkdir(parents=True)
    soundfile.write(tmp_path / "raw" / "ann" / "a.wav", noise(1), 16_000)
    monkeypatch.chdir(tmp_path / "raw")
    (one,) = prepared(Path("."), tmp_path / "out").values()
    assert (one.id, one.source, one.speaker) == ("raw/ann/a", "ann/a.wav", "ann")


def test_unfinished_download_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lease-1").touch()
    soundfile.write(tmp_path / "a.wav", noise(1), 16_000)
    with pytest.raises(CodecctlError, match="its download is not finished"):
        read_source(tmp_path, "x", note=print)
