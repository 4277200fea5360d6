"""What a person sees of a training: a bar with losses, speed and time left, and a line for each validation."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from codecctl.config import Config
from codecctl.evaluate.validate import Scores
from codecctl.train.checkpoint import Run
from codecctl.train.loop import Watcher
from codecctl.train.state import TrainState
from codecctl.train.step import StepResult

_REFRESH_SECONDS = 0.5  # reading a loss makes a card wait: not at every step
_PLAIN_SECONDS = 30.0  # between two lines where stderr is a log file


class TrainingDisplay(Watcher):
    """The progress of a run on stderr, as a live bar on a terminal and as plain lines in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("")
        self._shown = 0.0

    def started(self, run: Run, state: TrainState, config: Config, stop_step: int, steps_per_epoch: float) -> None:
        self._bar.start()  # not before: of several processes the first alone shows it
        n_parameters = sum(parameter.numel() for parameter in state.codec.parameters())
        device = next(state.codec.parameters()).device
        begin = f"from step {state.step} on" if state.step else "from the start"
        self._say(
            f"{run.folder}: {n_parameters / 1e6:.1f} M parameters, {config.model.bitrate_kbps:g} kbps, on {device}, "
            f"{begin} to step {stop_step}; an epoch is {steps_per_epoch:.0f} steps"
        )
        if state.step == 0:
            self._say("starting the codebooks by k-means")
        self._bar.update(self._task, completed=state.step, total=stop_step)

    def restored(self, what: dict[str, str]) -> None:
        table = Table("restored", "", show_header=False, box=None)
        for name, value in what.items():
            table.add_row(name, value)
        self._bar.console.print(table)

    def checked(self, what: dict[str, str]) -> None:
        for name, value in what.items():
            self._say(f"{name}: {value}")

    def saved(self, step: int, seconds: float) -> None:
        self._say(f"step {step}: saved; training waited {seconds:.2f} s")

    def failed(self, message: str) -> None:
        self._bar.console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)

    def warned(self, step: int, message: str) -> None:
        self._bar.console.print(f"[bold red]step {step}: {escape(message)}[/]", soft_wrap=True)

    def stepped(self, step: int, result: StepResult, audio_seconds_per_second: float) -> None:
        now = time.monotonic()
        wait = _REFRESH_SECONDS if self._console.is_terminal else _PLAIN_SECONDS
        if now - self._shown < wait:
            self._bar.update(self._task, completed=step)
            return
        self._shown = now
        losses = " ".join(f"{name} {float(value):.3g}" for name, value in result.losses.items())
        text = f"loss {float(result.total):.3g} ({losses}) {audio_seconds_per_second:.1f} s of audio/s"
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            self._say(f"step {step}: {text}")

    def validated(self, step: int, scores: Scores, improved: bool) -> None:
        perplexities = " ".join(f"{book.perplexity:.0f}" for book in scores.books)
        values = ", ".join(f"{name} {value:.2f}" for name, value in scores.values.items())
        self._say(f"step {step}: validation {values}; perplexity {perplexities}{'; best so far' if improved else ''}")

    def _say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
