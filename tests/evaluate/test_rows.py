import math
from pathlib import Path

import numpy as np
import pytest

from codecctl.errors import CodecctlError
from codecctl.evaluate.rows import Row, RowFile


def _row(name: str) -> Row:
    codes = np.arange(12, dtype=np.uint16).reshape(2, 6) * 1000
    envelope = np.arange(-9, 9, dtype=np.int8).reshape(3, 6)
    scores = {"codec": {"snr_db": 1.25, "stoi": math.nan}}
    return Row(name, "set", "en", None, 1.5, scores, {"codec": 42}, codes, envelope, (3, 4), True)


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    for name in ("ä", "b"):
        file.append(_row(name))
    first, second = file.rows()
    assert file.settings() == {"version": 1}
    assert (first.id, second.id, first.n_equal_codes, first.n_bits) == ("ä", "b", (3, 4), {"codec": 42})
    np.testing.assert_array_equal(first.codes, _row("ä").codes)
    np.testing.assert_array_equal(first.envelope, _row("ä").envelope)
    assert first.has_transcript
    assert first.scores["codec"]["snr_db"] == 1.25
    assert math.isnan(first.scores["codec"]["stoi"])


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    file.append(_row("a"))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + _row("b").to_line().encode()[:-10])
    assert [row.id for row in file.rows()] == ["a"]
    assert file.path.read_bytes() == whole


def test_damage_is_named_by_its_line(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    file.path.write_text(file.path.read_text() + "{}\n")
    with pytest.raises(CodecctlError, match="line 2"):
        list(file.rows())
