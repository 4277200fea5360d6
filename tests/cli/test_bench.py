"""`codecctl bench --train`: times for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Finished
from tests.train.tiny import ADVERSARIAL, tiny_yaml

Program = Callable[..., Finished]
CARD = "train.gpu={name: Tiny, memory_gb: 4, price_per_hour_usd: 2, peak_tflops: 1, bandwidth_gb_per_second: 1}"


@pytest.mark.slow
def test_training_steps_are_timed_without_data(codecctl: Program, tmp_path: Path) -> None:
    config = tiny_yaml(tmp_path, tmp_path / "no-data", *ADVERSARIAL, CARD)
    done = codecctl("bench", "--train", "--config", config, "--device", "cpu", "--steps", "2")
    assert done.code == 0, done.stderr
    title, header, *rows = done.stdout.decode().splitlines()
    assert title.startswith(f"{config} on CPU, 1 thread(s), torch ")
    assert title.endswith(", float32, compile off, 2 steps")
    assert header.split() == ["measured", "predicted", "for", "Tiny"]
    step, throughput, memory, *parts = rows
    assert float(step.split()[2]) > 0
    assert float(step.split()[3]) > 0
    assert throughput.startswith("seconds of audio a second")
    assert memory.split()[3:5] == ["not", "measured"]
    assert sum(float(row.split()[-1].rstrip("%")) for row in parts) == pytest.approx(100, abs=1)


@pytest.mark.slow
def test_a_program_reads_json(codecctl: Program, tmp_path: Path) -> None:
    config = tiny_yaml(tmp_path, tmp_path / "no-data")
    done = codecctl("bench", "--train", "--config", config, "--device", "cpu", "--steps", "1", "--json")
    found = json.loads(done.stdout)
    assert found["predicted"]["step_ms"] is None  # no card was named
    assert found["predicted"]["peak_bytes"] > 0
    assert sum(found["parts_ms"].values()) <= found["step_ms"]
    assert (found["n_steps"], found["peak_bytes"], found["assumptions"]) == (1, None, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train", "--checkpoint", "x.pt"], "--checkpoint: --train times a new model"),
        (["--config", "smoke"], "are for training steps; add --train"),
        (
            ["--train", "--config", "smoke", "--device", "cpu", "--set", "train.bach_size=1"],
            "did you mean 'batch_size'",
        ),
        (["--train", "--config", "nothing"], "no config 'nothing'"),
    ],
)
def test_wrong_use_is_one_line(codecctl: Program, arguments: list[str], said: str) -> None:
    done = codecctl("bench", *arguments)
    assert (done.code, done.stdout) == (2, b"")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
