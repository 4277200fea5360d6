"""A run that diverges ends with an error, and what it wrote can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codecctl.errors import CodecctlError
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import train
from tests.train.tiny import tiny_config

pytestmark = pytest.mark.slow


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_log_of_a_run_that_diverges_is_json_and_no_warning_is_printed(prepared: Path, tmp_path: Path) -> None:
    changes = ("learning_rate=1e9", "n_steps=30", "log_every_steps=1", "validate_every_steps=4")
    config = tiny_config(prepared, *(f"train.{change}" for change in changes), "train.checkpoint_every_steps=4")
    with pytest.raises(CodecctlError, match="gradients stay infinite at step"):
        train(config, tmp_path / "run", torch.device("cpu"), TrainingCallbacks())
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    events = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert any(event["kind"] == "validation" and event["mel_distance"] is None for event in events)
    assert any(event["kind"] == "train" and event["total_loss"] is None for event in events)
