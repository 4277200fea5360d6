"""Progress callbacks of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what the callbacks receive; the caller has it
    from pathlib import Path

    from codecctl.config.schema import Config
    from codecctl.evaluate.scorer import Scores, ValidationSet
    from codecctl.train.alarms import Trend
    from codecctl.train.checkpoint import Restored, Run
    from codecctl.train.preflight import Preflight
    from codecctl.train.state import TrainState
    from codecctl.train.step import StepResult
    from codecctl.train.timer import Throughput


class TrainingCallbacks:
    """The defaults do nothing; the command line's display overrides them. Only the first rank calls them."""

    def started(self, run: Run, state: TrainState, config: Config, stop_step: int, steps_per_epoch: float) -> None: ...

    def waiting(self, holder: str) -> None: ...

    def restored(self, what: Restored) -> None: ...

    def checked(self, findings: Preflight) -> None: ...

    def extended(self, start_from: Path, new: list[str]) -> None: ...

    def will_validate(self, validation: ValidationSet) -> None: ...

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None: ...

    def validated(self, step: int, scores: Scores, trend: Trend) -> None: ...

    def saved(self, step: int, seconds: float) -> None: ...

    def time_over(self, step: int, command: str) -> None:
        """`command` resumes the run."""

    def warned(self, step: int, message: str) -> None: ...
