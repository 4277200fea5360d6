"""How the lines that the documents show are compared with what a command prints."""

from __future__ import annotations

import pytest

from tests.documents import is_printed

OUTPUT = "reading\nrun/last.pt -> hf: 22 files, 33.7 MB\n"


@pytest.mark.parametrize("shown", ["...", "... -> hf: 22 files, 33.7 MB", "run/last.pt -> ...", "run... 22 files..."])
def test_three_dots_stand_for_a_part_of_a_line(shown: str) -> None:
    assert is_printed(shown, OUTPUT, exactly=True)


@pytest.mark.parametrize("shown", ["... -> hf: 23 files, 33.7 MB", "last.pt -> ...", "run... 23 files...", "... hf:"])
def test_what_stands_before_and_after_three_dots_is_compared(shown: str) -> None:
    assert not is_printed(shown, OUTPUT, exactly=True)
