import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecctl.errors import UsageError
from codecctl.evaluate import hearing
from codecctl.evaluate.hearing import unavailable
from codecctl.evaluate.recordings import Recording, find_recordings
from codecctl.evaluate.words import check_recogniser, n_edits, word_errors, words_of


def test_edits_of_words_that_are_in_every_textbook() -> None:
    assert n_edits("kitten", "sitting") == 3
    assert n_edits("intention", "execution") == 5
    assert n_edits([], ["a", "b"]) == n_edits(["a", "b"], []) == 2


@given(*[st.text("abc", max_size=7)] * 3)
def test_edits_are_a_distance(a: str, b: str, c: str) -> None:
    assert (n_edits(a, b) == 0) == (a == b)
    assert n_edits(a, b) == n_edits(b, a) <= max(len(a), len(b))
    assert n_edits(a, c) <= n_edits(a, b) + n_edits(b, c)


def test_one_wrong_word_of_four_is_a_quarter_and_case_and_commas_do_not_count() -> None:
    assert word_errors("Don't press that key!", "dont  press, that bee") == (1 / 4, 2 / 16)
    assert word_errors("one two", "") == (1, 1)
    assert word_errors("one", "one two three")[0] == 2
    assert all(math.isnan(rate) for rate in word_errors("...", "something"))


def test_marks_belong_to_their_letters() -> None:
    assert words_of("తెలుగు, हिन्दी") == ["తెలుగు", "हिन्दी"]
    assert words_of("STRASSE Straße") == ["strasse", "strasse"]


def test_words_without_a_recogniser_are_not_measured_with_the_way_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "_missing", lambda package: None)
    assert "validate.recogniser" in unavailable(["words"])["wer"]
    assert "wer" not in unavailable(["words"], "folder")
    monkeypatch.setattr(hearing, "_missing", lambda package: "not installed")
    assert "pip install faster-whisper" in unavailable(["words"], "folder")["wer"]


def test_a_folder_without_a_model_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"validate\.recogniser.*model\.bin"):
        check_recogniser(str(tmp_path))


def test_transcripts_of_a_list_are_what_words_are_counted_by(tmp_path, clips: list[Recording]) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.flac").write_bytes(clips[0].path.read_bytes())
    (tmp_path / "b.flac").write_bytes(clips[1].path.read_bytes())
    (tmp_path / "metadata.tsv").write_text("path\tsentence\na.flac\tThat agent is logged on.\nb\t\n")
    assert [recording.transcript for recording in find_recordings(tmp_path)] == ["That agent is logged on.", None]
