"""What a run writes down, and what a resumed one drops of it."""

from __future__ import annotations

import io
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codecctl.errors import CodecctlError
from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.train.checkpoint import Run
from codecctl.train.log import RunLog, side_by_side
from tests.train.compare import saves
from tests.train.test_checkpoint import files_up_to

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
    """Without those on saves."""
    events = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [event for event in events if event["kind"] != "checkpoint"]


def test_a_log_that_cannot_be_opened_names_the_file(run: Run) -> None:
    hook = threading.excepthook
    with files_up_to(10), pytest.raises(CodecctlError, match="/tb: File too large; a run needs its log"):
        RunLog(run, 0, 16000)
    assert threading.excepthook is hook
    assert not run.metrics.exists()


def test_write_appends_one_line_an_event(run: Run) -> None:
    write(run, 1, 2)
    expected = {"kind": "train", "codebook_usage": [1.0, 0.25], "perplexity": [pytest.approx(4), pytest.approx(1)]}
    assert lines(run) == [{"step": step, "total_loss": float(step), **expected} for step in (1, 2)]


def test_what_a_killed_run_wrote_after_its_checkpoint_is_dropped(run: Run) -> None:
    write(run, 1, 6)
    write(run, 4, 5, value=10.0)
    assert [(line["step"], line["total_loss"]) for line in lines(run)] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]


def test_the_line_of_a_checkpoint_is_added_where_a_kill_came_before_it(run: Run) -> None:
    """The checkpoint is written first: the line has the seconds that this took."""
    write(run, 1, 6)
    for _ in range(2):
        with RunLog(run, 4, 16000):
            pass
        assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
        assert saves(run.folder) == [4]


@pytest.mark.parametrize("broken", ['{"step": 3, "ki', '{"kind": "train"}', "[]", "7", "\x00\x00"])
def test_a_line_that_was_cut_short_is_dropped(run: Run, broken: str) -> None:
    write(run, 1, 2)
    with run.metrics.open("a") as file:
        file.write(broken)
    write(run, 3, 3)
    assert [line["step"] for line in lines(run)] == [1, 2, 3]


def test_bytes_that_are_no_text_at_the_end_are_dropped(run: Run) -> None:
    write(run, 1, 3)
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 2, "kind"\xff\xfe\x00\x00')
    write(run, 4, 4)
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]


def test_names_of_files_that_are_not_utf8_are_tags(run: Run) -> None:
    with RunLog(run, 0, 16_000) as log:
        log.audio(1, "caf\udce9/decoded", torch.zeros(1, 100))


def test_tensorboard_has_the_same_values(run: Run) -> None:
    write(run, 1, 6)
    write(run, 4, 5, value=10.0)
    with RunLog(run, 5, 16000) as log:
        log.audio(5, "clip/decoded", torch.full((1, 160), 2.0))
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/total_loss")] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]
    assert board.Scalars("train_perplexity/codebook_1")[0].value == pytest.approx(4)
    assert board.Audio("clip/decoded")[0].sample_rate == 16000


def test_earlier_reads_validations_from_the_file(run: Run) -> None:
    """After a roll-back from step 6 to 3 the second attempt counts; a line cut short, other kinds, and validations on
    other recordings do not."""
    with RunLog(run, 0, 16000) as log:
        for step, distance in ((2, 5.0), (4, 4.0), (6, 9.0), (4, 3.0), (6, math.nan)):
            log.write(step, "train", {"mel_distance": 0.0}, ())
            log.write(step, "validation", {"mel_distance": distance}, (), {"validated_on": "a"})
        log.write(3, "validation", {"mel_distance": 1.0}, (), {"validated_on": "b"})
        assert log.earlier(2, "a") == []
        assert log.earlier(6, "a") == [5.0, 3.0]
        assert math.isnan(log.earlier(8, "a")[-1])
        assert log.earlier(6, "b") == [1.0]
    with run.metrics.open("a") as file:
        file.write('{"step": 3, "ki')
    with RunLog(run, 4, 16000) as log:
        assert log.earlier(6, "a") == [5.0, 3.0]


def test_spectrograms_writes_one_image(run: Run) -> None:
    """A high tone on the left, a low one on the right, each at its height."""
    time = torch.arange(16000) / 16000
    high, low = (0.5 * torch.sin(2 * torch.pi * hz * time)[None] for hz in (6000, 300))
    with RunLog(run, 0, 16000) as log:
        log.spectrograms(3, "clip", high, low)
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    (image,) = board.Images("clip")
    assert image.step == 3
    shades = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("L"))
    left, right = shades[:, : image.width // 2 - 4], shades[:, image.width // 2 + 4 :]
    assert left.sum(axis=1).argmax() < 0.2 * image.height
    assert right.sum(axis=1).argmax() > 0.8 * image.height


def test_side_by_side_keeps_the_level_difference() -> None:
    original = np.array([[1.0, 0.1], [0.01, 0.0]], np.float32)
    shades = side_by_side(original, 0.1 * original)
    assert shades[::2].tolist() == [[127, 0, *[255] * 4, 63, 0], [255, 191, *[255] * 4, 191, 127]]
    assert side_by_side(0 * original, 0 * original)[:, :2].max() == 0


def test_histograms_of_a_used_and_a_collapsed_codebook_differ(run: Run) -> None:
    counts = [np.full(256, 10), np.bincount([7] * 2560, minlength=256)]
    with RunLog(run, 0, 16000) as log:
        log.histograms(5, counts)
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    used, collapsed = (board.Histograms(f"codebook_hits/codebook_{k}")[0].histogram_value for k in (1, 2))
    assert [used.num, collapsed.num] == [2560, 2560]
    assert set(used.bucket) == {40.0}
    assert collapsed.bucket[0] == 2560
    assert sum(collapsed.bucket) == 2560
    assert used.bucket_limit[-1] == used.max == 256
