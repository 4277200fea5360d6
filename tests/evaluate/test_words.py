import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecctl.errors import UsageError
from codecctl.evaluate import perceptual
from codecctl.evaluate.metrics.words import check_recogniser, n_edits, word_errors, words_of
from codecctl.evaluate.perceptual import unavailable
from codecctl.evaluate.utterances import ReferenceUtterance, find_utterances


def test_edit_distances_of_textbook_examples() -> None:
    assert n_edits("kitten", "sitting") == 3
    assert n_edits("intention", "execution") == 5
    assert n_edits([], ["a", "b"]) == n_edits(["a", "b"], []) == 2


@given(*[st.text("abc", max_size=7)] * 3)
def test_the_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (n_edits(a, b) == 0) == (a == b)
    assert n_edits(a, b) == n_edits(b, a) <= max(len(a), len(b))
    assert n_edits(a, c) <= n_edits(a, b) + n_edits(b, c)


def test_word_errors_ignore_case_and_punctuation() -> None:
    assert word_errors("Don't press that key!", "dont  press, that bee") == (1 / 4, 2 / 16)
    assert word_errors("one two", "") == (1, 1)
    assert word_errors("one", "one two three")[0] == 2
    assert all(math.isnan(rate) for rate in word_errors("...", "something"))


def test_words_keep_combining_marks() -> None:
    assert words_of("తెలుగు, हिन्दी") == ["తెలుగు", "हिन्दी"]
    assert words_of("STRASSE Straße") == ["strasse", "strasse"]


def test_word_errors_without_a_recogniser_are_unavailable_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "_missing", lambda package: None)
    assert "validate.recogniser" in unavailable(["words"])["wer"]
    assert "wer" not in unavailable(["words"], "folder")
    monkeypatch.setattr(perceptual, "_missing", lambda package: "not installed")
    assert "pip install faster-whisper" in unavailable(["words"], "folder")["wer"]


def test_a_folder_without_a_model_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"validate\.recogniser.*model\.bin"):
        check_recogniser(str(tmp_path))


def test_transcripts_are_read_from_the_folders_list(tmp_path, clips: list[ReferenceUtterance]) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.flac").write_bytes(clips[0].path.read_bytes())
    (tmp_path / "b.flac").write_bytes(clips[1].path.read_bytes())
    (tmp_path / "metadata.tsv").write_text("path\tsentence\na.flac\tThat agent is logged on.\nb\t\n")
    assert [utterance.text for utterance in find_utterances(tmp_path)] == ["That agent is logged on.", None]
