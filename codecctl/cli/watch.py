"""The progress of a training: a bar with the losses and their trends, throughput and time left, and a line for each
validation and save."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from codecctl.cli.console import duration, size
from codecctl.config.schema import Config
from codecctl.evaluate.scorer import Scores, ValidationSet
from codecctl.text import counted, printable
from codecctl.train.alarms import N_RECENT, Trend
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.changes import Change
from codecctl.train.checkpoint import Restored, Run, training_of
from codecctl.train.log import SCORE
from codecctl.train.preflight import Preflight
from codecctl.train.state import TrainState
from codecctl.train.step import StepResult
from codecctl.train.timer import Throughput

_REFRESH_SECONDS = 0.5  # reading a loss waits for the card: not at every step
_PLAIN_SECONDS = 30.0  # between two lines where stderr is a log file
_SLOW, _FAST = 0.97, 0.8  # kept of the two running means of a loss at each value
_FLAT = 0.01  # relative difference of the means below which the trend is level


class TrainingDisplay(TrainingCallbacks):
    """The progress of a run on stderr, as a live bar on a terminal and as plain lines in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("")
        self._shown = 0.0
        self._losses: dict[str, LossTrend] = {}
        self._begin, self._begin_step, self._stop_step = time.monotonic(), 0, 0

    def started(self, run: Run, state: TrainState, config: Config, stop_step: int, steps_per_epoch: float) -> None:
        self._begin, self._begin_step, self._stop_step = time.monotonic(), state.step, stop_step
        self._bar.start()  # not before: of several processes the first alone shows it
        n_parameters = sum(parameter.numel() for parameter in state.codec.parameters())
        device = next(state.codec.parameters()).device
        begin = f"from step {state.step} on" if state.step else "from the start"
        self._say(
            f"{run.folder}: {n_parameters / 1e6:.1f} M parameters, {config.model.bitrate_kbps:g} kbps, on {device}, "
            f"{begin} to step {stop_step}; an epoch is {steps_per_epoch:.0f} steps"
        )
        self._bar.update(self._task, completed=state.step, total=stop_step)

    def waiting(self, holder: str) -> None:
        self._say(f"waiting up to a minute, to see whether {holder}, which trained in this folder, still does")

    def restored(self, what: Restored) -> None:
        lines = describe_restored(what)
        width = max(map(len, lines))
        for name, value in lines.items():
            self._say(f"{name:{width}}  {value}")

    def checked(self, findings: Preflight) -> None:
        for name, value in describe_preflight(findings).items():
            self._say(f"{name}: {value}")

    def extended(self, start_from: Path, new: list[str]) -> None:
        self._say(f"start: the weights of {start_from}; it has no {', '.join(new)}, which starts anew")

    def will_validate(self, validation: ValidationSet) -> None:
        metrics = ", ".join(validation.metrics) or "no perceptual metric"
        missing = [f"{name}: {reason}" for name, reason in validation.missing.items()]
        self._say("; ".join([f"validation: {counted(len(validation.utterances), 'recording')}, {metrics}", *missing]))

    def saved(self, step: int, seconds: float) -> None:
        self._say(f"step {step}: saved; training waited {seconds:.2f} s")

    def time_over(self, step: int, command: str) -> None:
        self._say(f"stopped after step {step}: the time limit is over; saved; `{command}` goes on")

    def warned(self, step: int, message: str) -> None:
        self._say(label=f"step {step}: {message}")

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        now = time.monotonic()
        wait = _REFRESH_SECONDS if self._console.is_terminal else _PLAIN_SECONDS
        if now - self._shown < wait:
            self._bar.update(self._task, completed=step)
            return
        self._shown = now
        total = result.total
        # At the mean speed so far, validations and saves included.
        seconds_left = (self._stop_step - step) * (now - self._begin) / max(1, step - self._begin_step)
        losses = " ".join(self._loss(name, float(value)) for name, value in result.losses.items())
        facts = [
            f"{self._loss('loss', float(total))} ({losses}) {throughput.audio_seconds_per_second:.1f} s of audio/s",
            f"waiting for data {throughput.loader_wait_share:.0%}",
            *([f"discriminators {share:.0%}"] if (share := throughput.discriminators_share) is not None else ()),
            *gpu_memory(total.device),
            f"{duration(seconds_left)} left",
        ]
        text = ", ".join(facts)
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            self._say(f"step {step}: {text}")

    def validated(self, step: int, scores: Scores, trend: Trend) -> None:
        perplexities = " ".join(f"{stats.perplexity:.0f}" for stats in scores.codebooks)
        values = ", ".join(f"{name} {value:.2f}" for name, value in scores.values.items())
        self._say(f"step {step}: validation {values}; perplexity {perplexities}; {SCORE} {describe_trend(trend)}")

    def _loss(self, name: str, value: float) -> str:
        arrow = self._losses.setdefault(name, LossTrend(value)).arrow(value)
        return f"{name} {value:.3g}{arrow}"

    def _say(self, text: str = "", *, label: str = "") -> None:
        """A line above the bar; the label in red."""
        self._bar.console.print(Text.assemble((printable(label), "bold red"), printable(text)), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def describe_trend(trend: Trend) -> str:
    """E.g. `best so far, 4.0% better than 3 validations ago: still improving`."""
    if trend.since_best is None:
        return trend.verdict
    n = trend.since_best
    words = f"no new best in the last {f'{n} validations' if n > 1 else 'validation'}" if n else "best so far"
    if trend.gain is not None and trend.verdict != "stalled":
        difference = f"{abs(trend.gain):.1%} {'better' if trend.gain > 0 else 'worse'}"
        if n:
            words += f"; the best of the last {N_RECENT} is {difference} than the best before them"
        else:
            words += f", {difference} than {N_RECENT} validations ago"
    return f"{words}: {trend.verdict}"


def describe_preflight(findings: Preflight) -> dict[str, str]:
    """A line for each subject."""
    losses = ", ".join(f"{name} {value:.3g}" for name, value in findings.losses.items())
    times = f"a batch takes {findings.cut_seconds:.3f} s to cut and {findings.step_seconds:.2f} s to learn from"
    speed = "keeps up" if findings.keeps_up else "is too few; raise it, or use a faster disk"
    return {
        "first batch": f"{'teacher there, ' if findings.has_teacher else ''}all finite: {losses}",
        "loader": f"{times}: data.n_workers={findings.n_workers} {speed}"
        if findings.n_workers
        else f"{times}, one after the other: data.n_workers=0",
        "disk": f"checkpoints need {size(findings.needed_bytes)} more, {size(findings.free_bytes)} are free",
    }


def describe_restored(what: Restored) -> dict[str, str]:
    """A line for each part of the state, and for each key of the config that changes or was edited."""
    state, content, run = what.state, training_of(what.checkpoint), what.checkpoint.run or {}
    mode = "on" if state.step >= state.adversarial_step else f"from step {state.adversarial_step} on"
    return {
        "step": f"{state.step}, epoch {state.step / what.steps_per_epoch:.2f}",
        "place in the data": f"crops of step {state.step}, a function of the seed and the step",
        "randomness": "a function of the seed and the step: nothing to restore",
        "processes": _ranks(what, run["n_ranks"]),
        "codec and its average": f"{len(content['codec'])} tensors each, codebooks and their sums among them",
        "optimiser": f"AdamW, {len(content['optimizer']['state'])} moments",
        "discriminators": f"{len(content['discriminators'])} tensors and their AdamW, {mode}"
        if state.discriminators is not None
        else "none in this config",
        "best mel distance": _best(state, content["best_score"], content.get("validated_on", "")),
        "learning rates": f"x {state.rate_factor:g} after {state.n_rollbacks} roll-backs",
        "written by": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        **{key: _change(key, change) for key, change in what.changes.items()},
    }


def _best(state: TrainState, before: float, recordings: str) -> str:
    if math.isinf(before):
        return "none yet"
    if recordings in ("", state.validated_on):
        return f"{before:.3f}"
    return f"none yet: {before:.3f} was measured on other validation recordings; the next validation replaces best.pt"


def _ranks(what: Restored, before: int) -> str:
    now, n_crops = what.n_ranks, what.config.train.n_crops
    if now == before:
        return f"{now}, as before"
    return (
        f"{now} instead of {before}: a step has {n_crops * now} crops instead of {n_crops * before}, an epoch is "
        f"{what.steps_per_epoch:.0f} steps instead of {what.steps_per_epoch * now / before:.0f}; crops and dropout "
        "follow from the seed, the step and the new number; rates, schedule and the start of the discriminators stay; "
        f"--devices {before} would go on as it was"
    )


def _change(key: str, change: Change) -> str:
    if change.edited is None:
        return f"{change.value} instead of {change.before}"
    way = "it cannot change within a run" if change.is_fixed else f"`--set {key}={change.edited}` changes it"
    return f"{change.value}, as in the checkpoint; {change.edited} in config.yaml was not used: {way}"


class LossTrend:
    """The trend of a loss: the running mean of its last values compared with that of more of them."""

    def __init__(self, value: float) -> None:
        self._slow = self._fast = value

    def arrow(self, value: float) -> str:
        """Add the next value; returns an arrow up, down, or level."""
        self._slow += (1 - _SLOW) * (value - self._slow)
        self._fast += (1 - _FAST) * (value - self._fast)
        if abs(self._fast - self._slow) <= _FLAT * abs(self._slow):
            return "→"
        return "↑" if self._fast > self._slow else "↓"


def gpu_memory(device: torch.device) -> list[str]:
    """Peak memory of the card, e.g. `20.1 of 24 GB`; empty on the CPU."""
    if device.type != "cuda":
        return []
    peak, all_of_it = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    return [f"{peak / 1e9:.1f} of {all_of_it / 1e9:.0f} GB"]
