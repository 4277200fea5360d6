"""Some damaged inputs for every reader, the same ones on every run; `python -m tests.fuzz` tries many more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz.harness import Case
from tests.fuzz.targets import TARGETS

_FAILED = Path(__file__).parent / "failed"
_SECONDS, _MOST_CASES = 2.2, 400


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_input_gives_a_value_or_one_line(tmp_path: Path, name: str) -> None:
    end = time.monotonic() + _SECONDS
    for number in range(_MOST_CASES):
        case = Case(TARGETS[name], 0, number)
        assert case.run(tmp_path) is None, f"case {number}: {case.build()[0]}"
        if time.monotonic() > end:
            break


@pytest.mark.parametrize("path", sorted(_FAILED.iterdir()), ids=lambda path: path.name)
def test_what_failed_once_is_taken_rightly(tmp_path: Path, path: Path) -> None:
    name, _, file = path.name.partition("-")
    assert TARGETS[name].find_fault(file, path.read_bytes(), tmp_path) is None


def test_a_case_is_the_same_each_time() -> None:
    cases = [Case(TARGETS["audio"], 0, number).build() for number in (3, 4)]
    assert cases == [Case(TARGETS["audio"], 0, number).build() for number in (3, 4)]
    assert cases[0] != cases[1]
