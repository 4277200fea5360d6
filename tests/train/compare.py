"""Two runs that must have come out the same."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten_with_path

from codecctl.inference.checkpoint import Checkpoint

TIMINGS = {"audio_seconds_per_second", "save_seconds", "loader_wait_share", "discriminators_share"}


def logged(run: Path) -> list[dict[str, object]]:
    """The lines of `metrics.jsonl` without those on saves, and without what a clock measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines if line["kind"] != "checkpoint"]


def saves(run: Path) -> list[int]:
    """The steps of the lines on saves."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "checkpoint"]


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit: all that is in `last.pt`, and every line of the log."""
    files = [Checkpoint.read(run / "last.pt", with_training=True) for run in (first, second)]
    a, b = (tree_flatten_with_path([file.model, file.step, file.weights, file.training])[0] for file in files)
    assert [path for path, _ in a] == [path for path, _ in b]
    for (path, x), (_, y) in zip(a, b, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, path
    assert logged(first) == logged(second)
