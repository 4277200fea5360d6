"""Each corpus in its real layout: speaker, language and transcript."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecctl.data.download.corpus import find_corpora, read_marker
from codecctl.data.download.recipes import Corpus, read_recipes
from codecctl.data.prepare.sources import items_of_corpus
from codecctl.errors import CodecctlError

CV_HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
FLEURS_ROW = '1904\t10004.wav\tRaw, "words".\traw words\tr a w\t160000\tFEMALE\n'
LAYOUTS: dict[str, tuple[dict[str, str], dict[str, tuple[str | None, str, str | None]]]] = {
    "librispeech-dev-clean": (
        {
            "dev-clean/LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": "",
            "dev-clean/LibriSpeech/dev-clean/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n",
            "dev-clean/LibriSpeech/SPEAKERS.TXT": "84 | F",
        },
        {"84-121123-0000": ("84", "en", "GO DO YOU HEAR")},
    ),
    "ljspeech": (
        {
            "LJSpeech-1.1/LJSpeech-1.1/wavs/LJ001-0001.wav": "",
            "LJSpeech-1.1/LJSpeech-1.1/metadata.csv": 'LJ001-0001|In 1 "word|In one "word\n',
        },
        {"LJ001-0001": ("LJ", "en", 'In one "word')},
    ),
    "vctk": (
        {
            "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac": "",
            "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic2.flac": "",
            "VCTK-Corpus-0.92/wav48_silence_trimmed/p315/p315_001_mic1.flac": "",
            "VCTK-Corpus-0.92/txt/p225/p225_001.txt": "Please call Stella.\n",
        },
        {"p225_001_mic1": ("p225", "en", "Please call Stella."), "p315_001_mic1": ("p315", "en", None)},
    ),
    "slr66-te": (
        {
            "female/tef_00431_00083337733.wav": "",
            "female/line_index.tsv": "tef_00431_00083337733\tనమస్తే\n",
            "male/tem_02484_01.wav": "",
            "male/line_index.tsv": "tem_02484_01\tఅవును\n",
        },
        {"tef_00431_00083337733": ("tef_00431", "te", "నమస్తే"), "tem_02484_01": ("tem_02484", "te", "అవును")},
    ),
    "slr103-hi": (
        {
            "Hindi_train/train/audio/0001_001.wav": "",
            "Hindi_train/train/transcription.txt": "0001_001 प्रसिद्ध कबीर अध्येता\n",
        },
        {"0001_001": ("0001", "hi", "प्रसिद्ध कबीर अध्येता")},
    ),
    "mucs-te": (
        {"te-in-Train/Audios/001.wav": "", "te-in-Train/transcription.txt": "001\tఅవును కాదు\n"},
        {"001": (None, "te", "అవును కాదు")},
    ),
    "common-voice-te": (
        {
            "a/cv-corpus-25.0-2026-03-09/te/clips/common_voice_te_1.mp3": "",
            "a/cv-corpus-25.0-2026-03-09/te/clips/common_voice_te_2.mp3": "",
            "a/cv-corpus-25.0-2026-03-09/te/validated.tsv": CV_HEADER + "c7\tcommon_voice_te_1.mp3\t1\tఒక \"మాట\t2\n",
            "a/cv-corpus-25.0-2026-03-09/te/other.tsv": CV_HEADER + "c8\tcommon_voice_te_2.mp3\t2\tరెడు\t0\n",
            "a/cv-corpus-25.0-2026-03-09/te/clip_durations.tsv": "clip\tduration[ms]\ncommon_voice_te_1.mp3\t3000\n",
        },
        {"common_voice_te_1": ("c7", "te", 'ఒక "మాట'), "common_voice_te_2": ("c8", "te", "రెడు")},
    ),
    "fleurs-te_in": (
        {"data/te_in/audio/train/train/10004.wav": "", "data/te_in/train.tsv": FLEURS_ROW},
        {"10004": (None, "te", 'Raw, "words".')},
    ),
    "asterisk-core-sounds-it": (
        {"x/digits/1.sln16": "", "x/vm-login.sln16": "", "x/core-sounds-it.txt": "digits/1: uno\n"},
        {"1": ("carlo-flora", "it", None), "vm-login": ("carlo-flora", "it", None)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> dict[str, Corpus]:
    return {corpus.name: corpus for corpus in read_recipes()}


def make_tree(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_items_have_speaker_language_and_text(name: str, tmp_path: Path, shipped: dict[str, Corpus]) -> None:
    files, expected = LAYOUTS[name]
    make_tree(tmp_path, files)
    items = list(items_of_corpus(shipped[name], tmp_path))
    assert {item.dataset for item in items} == {name}
    assert {Path(item.place).stem: (item.speaker, item.language, item.text) for item in items} == expected
    assert [item.place for item in items] == sorted(item.place for item in items)


def test_fleurs_items_from_its_fallback_are_the_same(tmp_path: Path, shipped: dict[str, Corpus]) -> None:
    make_tree(tmp_path, {"te_in/te_in/audio/train/10004.wav": "", "te_in/te_in/train.tsv": FLEURS_ROW})
    (item,) = items_of_corpus(shipped["fleurs-te_in"], tmp_path)
    assert (item.language, item.text) == ("te", 'Raw, "words".')


def test_items_have_raw_rate_lossy_origin_and_licence(tmp_path: Path, shipped: dict[str, Corpus]) -> None:
    make_tree(tmp_path, {"x/1.sln16": "", "clips/1.mp3": ""})
    raw, mp3 = (
        next(items_of_corpus(shipped[name], tmp_path)) for name in ("asterisk-core-sounds-en", "common-voice-te")
    )
    assert (raw.raw_rate, raw.lossy, raw.licence) == (16000, None, "CC-BY-SA-3.0")
    assert (mp3.lossy, mp3.licence) == ("mp3", "CC0-1.0")


def test_parquet_facts_come_from_the_first_column_of_the_recipe_that_is_there(
    tmp_path: Path, shipped: dict[str, Corpus]
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    corpus = shipped["kathbath-te"]
    assert corpus.layout.parquet is not None
    (text,) = corpus.layout.parquet.text[-1:]
    (tmp_path / "telugu").mkdir()
    for name in ("train-00000-of-00002", "valid-00000-of-00001"):
        parquet.write_table(pyarrow.table({"audio": [b"1"], text: ["అవును"]}), tmp_path / "telugu" / f"{name}.parquet")
    items = list(items_of_corpus(corpus, tmp_path))
    assert [item.place for item in items] == [
        "telugu/train-00000-of-00002.parquet#0000000",
        "telugu/valid-00000-of-00001.parquet#0000000",
    ]
    assert {(item.column, item.text, item.speaker, item.language) for item in items} == {("audio", "అవును", None, "te")}


def test_audio_is_found_where_the_layout_matches_nothing(tmp_path: Path, shipped: dict[str, Corpus]) -> None:
    make_tree(tmp_path, {"somewhere/else/0001_1.WAV": "", "somewhere/readme.txt": "", "__MACOSX/somewhere/._1.wav": ""})
    assert [item.place for item in items_of_corpus(shipped["slr103-hi"], tmp_path)] == ["somewhere/else/0001_1.WAV"]


def test_missing_marker_is_no_corpus_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_marker(tmp_path) is None
    assert find_corpora(tmp_path) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "corpus.json").write_text(json.dumps({"format": "codecctl.corpus/1"}))
    assert find_corpora(tmp_path) == [tmp_path / "a"]
    with pytest.raises(CodecctlError, match="'corpus': is missing; remove it"):
        read_marker(tmp_path / "a")
