"""The training loop: from a config and prepared data to a run folder, and on from a checkpoint."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.data.crops import Crops
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.codebooks import CodebookCounter, codebook_stats
from codecctl.evaluate.scorer import ValidationSet
from codecctl.inference.checkpoint import Checkpoint
from codecctl.train import alarms, launch
from codecctl.train.batches import batches_from
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.changes import change_config
from codecctl.train.checkpoint import Restored, Run, load_state, read_run_config, save_last, save_state, take_weights
from codecctl.train.device import for_any_length, make_fabric, sum_counts
from codecctl.train.log import SCORE, RunLog, step_values
from codecctl.train.preflight import preflight
from codecctl.train.setup import assemble, fit_codebooks, open_crops
from codecctl.train.signals import TIME_IS_OVER, StopAsked, StopSignals, TimeLimit, UntilStopped
from codecctl.train.state import validate_on
from codecctl.train.step import StepResult, train_step
from codecctl.train.timer import Clock, Throughput


def train(
    config: Config,
    folder: Path,
    device: torch.device,
    callbacks: TrainingCallbacks,
    stop_step: int | None = None,
    *,
    start_from: Path | None = None,
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Start a run in `folder` and train until `stop_step` (None: `train.n_steps`). `start_from`: the checkpoint whose
    weights and codebooks it starts with; None: random weights, and codebooks by k-means. `max_minutes` (None:
    `train.max_minutes`) after `started` (by `time.monotonic()`; None: now) the state is saved and the run returned.

    Raises `UsageError` if the folder holds a run already or `max_minutes` are over before the first step,
    `CodecctlError` if the prepared data or the teacher is missing or too much goes wrong, `Interrupted` after SIGINT or
    SIGTERM, when the state has been saved.
    """
    limit = TimeLimit.of(config.train, max_minutes, started)
    run = Run(folder)
    run.refuse_taken()
    crops = open_crops(config)
    ranks = launch.count_ranks(n_devices, n_nodes)
    if not ranks.are_started:
        launch.start_ranks(ranks, folder)
        return run
    with launch.reporting(ranks, folder):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        training = _Training(config, run, crops, fabric, callbacks, limit)
        training.check()
        if start_from is None:
            fit_codebooks(training.state, config, crops, fabric)
        elif new := take_weights(training.state, start_from):
            training.callbacks.extended(start_from, new)
        training.check_time()
        with _held(run, fabric, callbacks):
            if fabric.is_global_zero:
                run.create(config)
            launch.check_shared(fabric, run.config)
            training.go(stop_step)
    return run


def resume(
    folder: Path,
    device: torch.device,
    callbacks: TrainingCallbacks,
    stop_step: int | None = None,
    data: str | None = None,
    *,
    overrides: Sequence[str] = (),
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Continue from the last checkpoint of a run as if it had never stopped. `data`: the prepared folder, if it has
    moved. `overrides`: `a.b=c` for keys that may change within a run; config.yaml is written anew. `max_minutes`,
    `started`: as for `train`.

    Raises `UsageError` if the run is at `stop_step` already or another process trains there, `CodecctlError` if the
    checkpoint misses a key or has a foreign one, and what `train` raises.
    """
    run = Run.at(folder)
    written = run.last_written()
    checkpoint, config = read_run_config(run)
    config, changes = change_config(config, run.config, overrides, data)
    limit = TimeLimit.of(config.train, max_minutes, started)
    if checkpoint.step >= (stop_step or config.train.n_steps):
        raise UsageError(f"{run.last}: is at step {checkpoint.step} already; give more with --steps")
    crops = open_crops(config)
    ranks = launch.count_ranks(n_devices, n_nodes)
    if not ranks.are_started:
        launch.start_ranks(ranks, folder)
        return run
    with launch.reporting(ranks, run.folder):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        with _held(run, fabric, callbacks):
            if run.last_written() != written:
                raise UsageError(f"{run.last}: another process has saved it meanwhile; run the same command again")
            training = _Training(config, run, crops, fabric, callbacks, limit)
            training.load(checkpoint)
            training.check()
            training.check_time()
            training.callbacks.restored(
                Restored(checkpoint, training.state, config, training.steps_per_epoch, fabric.world_size, changes)
            )
            if fabric.is_global_zero:
                run.write_config(config)
            training.go(stop_step)
    return run


class _Training:
    """One run on its devices."""

    log: RunLog | None = None  # None: a rank that is not the first, or before the first step
    clock: Clock  # from the first step on

    def __init__(
        self, config: Config, run: Run, crops: Crops, fabric: Fabric, callbacks: TrainingCallbacks, limit: TimeLimit
    ) -> None:
        self.config, self.run, self.crops, self.fabric, self.limit = config, run, crops, fabric, limit
        self.callbacks = callbacks if fabric.is_global_zero else TrainingCallbacks()
        self.step_samples = config.train.n_crops * config.crop_samples * fabric.world_size  # of audio, on all ranks
        self.steps_per_epoch = crops.n_samples / self.step_samples
        self.state, self.context = assemble(
            config, fabric, self.steps_per_epoch, warn=lambda text: self.callbacks.warned(self.state.step, text)
        )
        self.counter = CodebookCounter(config.model.quantizer.codebook_sizes)  # of this rank, since the last `_gather`
        self.skipped: dict[int, Tensor] = {}  # by step, not read yet: the host reads many at once
        self.validation = ValidationSet.open(config.data.path, config.validation)
        validate_on(self.state, self.validation.digest)
        self._saved_step = 0  # of last.pt

    def load(self, checkpoint: Checkpoint) -> None:
        """Load the state. Raises `CodecctlError` if its keys are others, or the ranks read different files."""
        load_state(self.state, checkpoint)
        validate_on(self.state, self.validation.digest)
        self._saved_step = self.state.step
        self.counter.reset()
        if self.context.graphs is not None:
            self.context.graphs.forget()
        launch.check_same_codebooks(self.fabric, self.state, self.run.folder)

    def check(self) -> None:
        """Raises `CodecctlError` if a first batch, or the disk, shows that this run would fail."""
        self.callbacks.checked(preflight(self.state, self.context, self.config, self.crops, self.run.folder))
        self.callbacks.will_validate(self.validation)

    def check_time(self) -> None:
        """Raises `UsageError`, on all ranks, if the time is over before the first step."""
        if launch.largest(self.fabric, int(self.limit.is_over)):
            raise UsageError(
                f"--max-minutes {self.limit.minutes:g}: preparing the first step took {self.limit.minutes_passed:.2g} "
                "minutes; nothing was trained; give more"
            )

    def go(self, stop_step: int | None) -> None:
        """Train until `stop_step`, a signal, or the end of the time limit."""
        state, settings = self.state, self.config.train
        stop_step = stop_step or settings.n_steps
        every = (settings.log_every_steps, settings.validate_every_steps, settings.checkpoint_every_steps)
        self.callbacks.started(self.run, state, self.config, stop_step, self.steps_per_epoch)
        with StopSignals(self.limit) as signals, self._open_log() as self.log:
            if state.step > state.validated_step and state.step % settings.validate_every_steps == 0:
                self._validate(lambda: signals.reason)  # a signal had interrupted it
            for result, throughput in self._steps(stop_step):
                self.callbacks.stepped(state.step, result, throughput)
                is_last = state.step == stop_step
                logs, validates, saves = (state.step % n == 0 or is_last for n in every)
                if (logs or validates or saves) and self._rolls_back():
                    continue
                if logs:
                    self._log_step(result, throughput)
                if validates:
                    with self.clock.paused():  # no time is left to keep after the last step
                        self._validate((lambda: signals.received) if is_last else (lambda: signals.reason))
                stop = launch.largest(self.fabric, signals.reason)
                if saves or stop:
                    with self.clock.paused():
                        self._save(is_last=is_last or bool(stop))
                if stop:
                    return self._end(stop, stop_step)

    def _steps(self, stop_step: int) -> Iterator[tuple[StepResult, Throughput]]:
        """Train step by step."""
        with Clock(self.step_samples / self.config.model.sample_rate, self.fabric.device) as self.clock:
            while self.state.step < stop_step:  # again after a roll-back, with the crops of the step that it went to
                n_rollbacks = self.state.n_rollbacks
                crops = batches_from(self.state.step, stop_step, self.crops, self.config, self.fabric)
                for batches in self.clock.waiting(crops):
                    result = train_step(self.state, batches, self.context, self.config)
                    self.counter.update(result.codes)
                    self.skipped[self.state.step] = result.skipped
                    yield result, self.clock.tick()
                    if self.state.n_rollbacks > n_rollbacks:
                        break

    def _read_skips(self) -> None:
        """Waits for the device."""
        flags = torch.stack([*self.skipped.values()]).tolist() if self.skipped else []
        for step, flag in zip(self.skipped, flags, strict=True):
            self.state.n_skipped = self.state.n_skipped + 1 if flag else 0
            if flag:
                self.callbacks.warned(step, "the gradient is not finite: the step was skipped")
        self.skipped.clear()

    def _rolls_back(self) -> bool:
        """After too many skipped steps in a row: load the last checkpoint, at half the learning rates."""
        self._read_skips()
        state, n_rollbacks = self.state, self.state.n_rollbacks + 1
        if state.n_skipped < alarms.ROLL_BACK_AFTER:
            return False
        if not self.run.last.exists() or n_rollbacks > alarms.MAX_ROLLBACKS:
            raise CodecctlError(
                f"{self.run.folder}: gradients stay infinite at step {state.step} after {state.n_rollbacks} "
                "roll-backs; look at the losses in metrics.jsonl, lower train.learning_rate, or check the data"
            )
        self.load(Checkpoint.read(self.run.last, with_training=True))
        state.n_skipped, state.n_rollbacks, state.rate_factor = 0, n_rollbacks, 0.5**n_rollbacks
        self.callbacks.warned(state.step, f"rolled back to step {state.step}; learning rates x {state.rate_factor:g}")
        return True

    def _log_step(self, result: StepResult, throughput: Throughput) -> None:
        """Write a line about the step, and about the codes since the last one. Raises `CodecctlError` if a codebook
        stays collapsed."""
        self._gather_counts()
        codebooks = [codebook_stats(counts.numpy()) for counts in self.state.code_counts]
        self._write("train", step_values(result, throughput), codebooks)
        warnings, reason = alarms.check_codebooks(self.state, codebooks)
        for warning in warnings:
            self.callbacks.warned(self.state.step, warning)
        self.state.code_counts = [torch.zeros_like(counts) for counts in self.state.code_counts]
        if reason:
            self.state.n_alarms = [0] * len(codebooks)  # a resumed run gets as many lines as a new one
            self._save()
            saved = f"saved at step {self.state.step}; resume with a lower train.learning_rate"
            raise CodecctlError(f"{self.run.folder}: {reason}; {saved}")

    @for_any_length()
    def _validate(self, reason_to_stop: Callable[[], int | None]) -> None:
        """Score the average of the weights, and save it if it is the best so far. A reason to stop interrupts it; then
        the resumed run validates again."""
        state = self.state
        if self.log is not None:
            with contextlib.suppress(StopAsked):
                utterances = UntilStopped(self.validation.utterances, reason_to_stop)
                scores = replace(self.validation, utterances=utterances).score(state.ema)
                state.validated_step = state.step
                earlier = self.log.earlier(state.step, state.validated_on)
                trend = alarms.trend(earlier, scores.values[SCORE])
                words = {"trend": trend.verdict, "validated_on": state.validated_on}
                self._write("validation", scores.values, scores.codebooks, words)
                self._try("NOT LOGGED", partial(self.log.examples, state, self.validation.utterances, scores.counts))
                if scores.values[SCORE] < state.best_score:
                    before, state.best_score = state.best_score, scores.values[SCORE]
                    save = partial(save_state, state, self.config, self.run.best, self.fabric.world_size)
                    if self._try("NOT SAVED", save):
                        state.best_score = before  # still that of best.pt
                self.callbacks.validated(state.step, scores, trend)
        launch.meet(self.fabric)
        state.best_score, state.validated_step = self.fabric.broadcast((state.best_score, state.validated_step))

    def _save(self, *, is_last: bool = False) -> None:
        """Write `last.pt`. Raises `CodecctlError` if the codebooks of the ranks differ, or the last save fails."""
        start = time.perf_counter()
        state, n_ranks = self.state, self.fabric.world_size
        self._read_skips()
        launch.check_same_codebooks(self.fabric, state, self.run.folder)
        self._gather_counts()
        problem = ""
        if self.fabric.is_global_zero:
            save = partial(save_last, self.run, state, self.config, n_ranks, self._saved_step)
            problem = self._try("NOT SAVED", save)
        problem = self.fabric.broadcast(problem)
        seconds = time.perf_counter() - start
        if not problem:
            self._saved_step = state.step
            self._write("checkpoint", {"save_seconds": seconds})
            self.callbacks.saved(state.step, seconds)
        elif is_last:
            raise CodecctlError(f"{self.run.last}: {problem}; step {state.step} could not be saved")

    def _end(self, stop: int, stop_step: int) -> None:
        """Raises `Interrupted` if the reason to stop is a signal."""
        step, n_steps = self.state.step, self.config.train.n_steps
        # The config knows its own number of steps, but not the one of this command.
        command = f"codecctl resume {self.run.folder}" + (f" --steps {stop_step}" if stop_step != n_steps else "")
        if stop != TIME_IS_OVER:
            rest = f"saved; `{command}` goes on" if step < stop_step else "the last one, and saved"
            raise Interrupted(f"stopped after step {step}, {rest}", stop)
        if step < stop_step:
            self.callbacks.time_over(step, command)

    def _gather_counts(self) -> None:
        """Add what all ranks have counted to the state."""
        new = sum_counts(self.fabric, self.counter)
        self.state.code_counts = [a + b for a, b in zip(self.state.code_counts, new, strict=True)]
        self.counter.reset()

    def _write(self, kind: str, values: Mapping[str, float], *details: Any) -> None:
        """A line of the log, see `RunLog.write`."""
        if self.log is not None:
            self._try("NOT LOGGED", partial(self.log.write, self.state.step, kind, values, *details))

    def _try(self, what: str, write: Callable[[], None]) -> str:
        """Returns the problem, if any. A full disk must not end the run: the last checkpoint stays, and there may be
        room again later."""
        try:
            write()
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
            self.callbacks.warned(self.state.step, f"{what}: {problem}; the last checkpoint stays")
            return problem
        return ""

    def _open_log(self) -> AbstractContextManager[RunLog | None]:
        if not self.fabric.is_global_zero:
            return contextlib.nullcontext()
        return RunLog(self.run, self.state.step, self.config.model.sample_rate)


def _held(run: Run, fabric: Fabric, callbacks: TrainingCallbacks) -> AbstractContextManager[None]:
    """Only the first rank writes, and keeps other processes out."""
    return run.held(callbacks.waiting) if fabric.is_global_zero else contextlib.nullcontext()
