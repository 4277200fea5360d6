"""What a person sees of a training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from codecctl.cli import watch
from codecctl.cli.watch import LossTrend, TrainingDisplay, gpu_memory
from codecctl.train.loop import train
from tests.cli.conftest import Finished
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_yaml

CPU = torch.device("cpu")
FACTS = (
    r"loss \S+[→↑↓] \(waveform \S+[→↑↓] spectral \S+ mel \S+ commitment \S+\) \d+\.\d s of audio/s, "
    r"waiting for data \d+%, \d+ (s|min|h \d\d min) left"
)


@pytest.mark.slow
def test_a_log_file_gets_plain_lines(codecctl: Callable[..., Finished], prepared: Path, tmp_path: Path) -> None:
    config = tiny_yaml(tmp_path, prepared, "train.validate_every_steps=1", "train.n_steps=7")
    done = codecctl("train", "--config", config, "--run", tmp_path / "run", "--device", "cpu")
    assert done.code == 0, done.stderr
    lines = done.stderr.splitlines()
    assert any(re.fullmatch(rf"step 1: {FACTS}", line) for line in lines), done.stderr
    trends = [line.rpartition("; ")[2] for line in lines if " validation " in line]
    assert trends[0] == "mel_distance best so far: too early to tell"
    assert re.search(r"(improving|stalled)$", trends[-1])
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_bar(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same facts, beside a bar that is drawn in place."""
    monkeypatch.setattr(watch, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(watch, "Console", lambda **_: Console(force_terminal=True, width=300, file=screen))
    with (tmp_path / "screen").open("w+", encoding="utf-8") as screen:
        with TrainingDisplay() as display:
            train(tiny_config(prepared, "train.n_steps=3"), tmp_path / "run", CPU, display)
        screen.seek(0)
        seen = screen.read()
    assert "━" in seen
    assert re.search(rf"3/3 {FACTS.replace('left', '')}", re.sub(r"\x1b\[[0-9;?]*\w", "", seen)), seen


def test_the_share_of_the_discriminators_is_shown_and_logged(
    codecctl: Callable[..., Finished], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_PLAIN_SECONDS", 0.0)
    config = tiny_yaml(tmp_path, prepared, *ADVERSARIAL, "train.n_steps=2")
    done = codecctl("train", "--config", config, "--run", tmp_path / "run", "--device", "cpu")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [event["discriminators_share"] for event in events if event["kind"] == "train"]
    assert [f"{share:.0%}" for share in shares] == re.findall(r"discriminators (\d+%), ", done.stderr)
    assert all(0 < share < 1 for share in shares)


def test_a_trend_is_not_the_noise_of_a_step() -> None:
    falling, level = LossTrend(10.0), LossTrend(1.0)
    arrows = [(falling.arrow(10 - 0.2 * i + (-1) ** i), level.arrow(1 + 0.02 * (-1) ** i)) for i in range(30)]
    assert set(arrows[10:]) == {("↓", "→")}
    assert [falling.arrow(20.0) for _ in range(5)][-1] == "↑"


def test_a_cpu_has_no_card_to_tell_of() -> None:
    assert gpu_memory(CPU) == []


@pytest.mark.cuda
def test_a_cards_memory_is_told() -> None:
    block = torch.ones(2**28, device="cuda")
    peak, total = re.fullmatch(r"(\S+) of (\d+) GB", *gpu_memory(block.device)).groups()  # type: ignore[union-attr]
    assert 1.0 <= float(peak) <= float(total)
