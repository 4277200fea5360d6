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
    return Row(
        id=name,
        dataset="set",
        language="en",
        speaker=None,
        seconds=1.5,
        scores=scores,
        n_bits={"codec": 42},
        snr_bounds_db=(12.5, math.nan),
        codes=codes,
        envelope=envelope,
        n_equal_codes=(3, 4),
        has_text=True,
    )


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    for name in ("ä", "not UTF-8: \udcff"):
        file.append(_row(name))
    first, second = file.rows()
    assert file.settings() == {"version": 1}
    assert (first.id, second.id, first.n_equal_codes, first.n_bits) == ("ä", "not UTF-8: \udcff", (3, 4), {"codec": 42})
    np.testing.assert_array_equal(first.codes, _row("ä").codes)
    np.testing.assert_array_equal(first.envelope, _row("ä").envelope)
    assert first.has_text
    assert first.snr_bounds_db[0] == 12.5
    assert math.isnan(first.snr_bounds_db[1])
    assert first.scores["codec"]["snr_db"] == 1.25
    assert math.isnan(first.scores["codec"]["stoi"])


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    file.append(_row("a"))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + _row("b").to_line().encode()[:-10])
    assert [row.id for row in file.rows()] == ["a"]
    assert file.path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"{}", b"\xff", b"3", b"[" * 100_000])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.start({"version": 1})
    file.path.write_bytes(file.path.read_bytes() + line + b"\n")
    with pytest.raises(CodecctlError, match="line 2"):
        list(file.rows())
    file.path.write_bytes(line.replace(b"{}", b"no JSON") + b"\n")
    with pytest.raises(CodecctlError, match=r"line 1: .* remove it and measure anew"):
        file.settings()
