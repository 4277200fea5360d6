"""What a run writes down, and what a resumed one drops of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.train.checkpoint import Run
from codecctl.train.log import RunLog

BOOKS = CodebookCounter((4, 4))
BOOKS.update(torch.tensor([[[0, 1, 2, 3], [1, 1, 1, 1]]]))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def write(run: Run, first: int, last: int, value: float = 1.0) -> None:
    """Open the log where step `first - 1` was saved, and write to step `last`."""
    with RunLog(run, first - 1, 16000) as log:
        for step in range(first, last + 1):
            log.write(step, "train", {"total_loss": value * step}, BOOKS.stats())


def lines(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_a_line_is_an_event(run: Run) -> None:
    write(run, 1, 2)
    expected = {"kind": "train", "codebook_usage": [1.0, 0.25], "perplexity": [pytest.approx(4), pytest.approx(1)]}
    assert lines(run) == [{"step": step, "total_loss": float(step), **expected} for step in (1, 2)]


def test_what_a_killed_run_wrote_after_its_checkpoint_is_dropped(run: Run) -> None:
    write(run, 1, 6)
    write(run, 4, 5, value=10.0)
    assert [(line["step"], line["total_loss"]) for line in lines(run)] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]


@pytest.mark.parametrize("broken", ['{"step": 3, "ki', '{"kind": "train"}', "[]", "7", "\x00\x00"])
def test_a_line_that_was_cut_short_is_dropped(run: Run, broken: str) -> None:
    write(run, 1, 2)
    with run.metrics.open("a") as file:
        file.write(broken)
    write(run, 3, 3)
    assert [line["step"] for line in lines(run)] == [1, 2, 3]


def test_tensorboard_shows_the_same(run: Run) -> None:
    write(run, 1, 6)
    write(run, 4, 5, value=10.0)
    with RunLog(run, 5, 16000) as log:
        log.audio(5, "clip/decoded", torch.full((1, 160), 2.0))
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/total_loss")] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]
    assert board.Scalars("train_perplexity/book_1")[0].value == pytest.approx(4)
    assert board.Audio("clip/decoded")[0].sample_rate == 16000
