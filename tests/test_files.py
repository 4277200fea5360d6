"""A reader sees the old file or the new one, and a failure leaves nothing behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from codecctl.files import replacing, to_json


@pytest.mark.parametrize("durable", [False, True])
def test_replacing_publishes_at_the_end_of_the_block(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, durable=durable) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_keeps_the_old_file_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass


def test_json_has_null_for_numbers_that_json_does_not_have() -> None:
    record = {"a": [math.nan, 1.5, (math.inf, True)], "b": {"c": -math.inf, "d": "\udcff"}, "e": None}
    assert to_json(record) == r'{"a": [null, 1.5, [null, true]], "b": {"c": null, "d": "\udcff"}, "e": null}'
