"""The training loop: from a config and prepared data to a run folder, and on from a checkpoint."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from codecctl.config import Config
from codecctl.data.crops import Crops, Prefetcher
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.codebooks import CodebookCounter, CodebookStats
from codecctl.evaluate.quick import Scores, ValidationSet
from codecctl.inference.checkpoint import Checkpoint
from codecctl.model.codec import Codec
from codecctl.model.fronts import FRONTS
from codecctl.train.agreement import check_same_books, check_shared, largest
from codecctl.train.changes import change_config
from codecctl.train.checkpoint import Run, load_state, read_run_config, restored, save_last, save_state, take_weights
from codecctl.train.device import make_fabric, pinned, sent
from codecctl.train.log import NoLog, RunLog
from codecctl.train.preflight import preflight
from codecctl.train.ranks import count_ranks, together
from codecctl.train.signals import TIME_IS_OVER, StopAsked, StopSignals, TimeLimit, UntilStopped
from codecctl.train.state import TrainState, start_state, step_generator
from codecctl.train.step import StepResult, assemble, train_step
from codecctl.train.teacher import SemanticHead, Teacher
from codecctl.train.throughput import Clock, Throughput
from codecctl.train.trend import trend

_KMEANS = 2  # a purpose of randomness, see step.py
_N_LISTENED = 3  # validation recordings that TensorBoard keeps to listen to
_ALARM_AFTER = 10  # lines of the log in a row: perplexities are low early in training
_STOP_AFTER_ALARMS = 20  # lines of the log in a row
_MIN_PERPLEXITY = 0.01  # share of a codebook's size below which it counts as collapsed
_ROLL_BACK_AFTER = 5  # steps in a row whose gradient is not finite
_MAX_ROLLBACKS = 3  # in a run


class Watcher:
    """Who is told what happens in a run; this one does not care. The command line's shows it."""

    def started(self, run: Run, state: TrainState, config: Config, stop_step: int, steps_per_epoch: float) -> None: ...

    def restored(self, what: dict[str, str]) -> None: ...

    def checked(self, what: dict[str, str]) -> None: ...

    def will_validate(self, validation: ValidationSet) -> None: ...

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None: ...

    def validated(self, step: int, scores: Scores, trend: str) -> None: ...

    def saved(self, step: int, seconds: float) -> None: ...

    def time_over(self, run: Run, step: int) -> None: ...

    def warned(self, step: int, message: str) -> None: ...

    def failed(self, message: str) -> None:
        """The last word before this process ends itself, from another thread: the loop hangs."""


def train(
    config: Config,
    folder: Path,
    device: torch.device,
    watcher: Watcher,
    stop_step: int | None = None,
    *,
    start_from: Path | None = None,
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Start a run in `folder` and train until `stop_step` (None: `train.n_steps`). `start_from`: the checkpoint whose
    weights and codebooks it begins with; else they are drawn, and the books start by k-means. `max_minutes` (None:
    `train.max_minutes`) after `started` (by `time.monotonic()`; None: now) the state is saved and the run returned.

    Raises `UsageError` if a run is there already or `max_minutes` are over before the first step,
    `CodecctlError` if the prepared data or the teacher is missing or too much goes wrong, `Interrupted` after SIGINT or
    SIGTERM, when the state has been saved.
    """
    limit = _time_limit(config, max_minutes, started)
    run = Run(folder)
    run.refuse_taken()
    crops = open_crops(config)
    with together(count_ranks(n_devices, n_nodes), folder, watcher.failed):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        trainer = _Trainer(config, run, crops, fabric, watcher, limit)
        trainer.check()
        if start_from is None:
            start_codebooks(trainer.state, config, crops, fabric)
        elif said := take_weights(trainer.state, start_from, config.train.freeze):
            trainer.watcher.checked({"start": said})
        trainer.check_time()
        with _held(run, fabric):
            if fabric.is_global_zero:
                run.create(config)
            check_shared(fabric, run.config)
            trainer.go(stop_step)
    return run


def resume(
    folder: Path,
    device: torch.device,
    watcher: Watcher,
    stop_step: int | None = None,
    data: str | None = None,
    *,
    overrides: Sequence[str] = (),
    n_devices: int = 1,
    n_nodes: int = 1,
    max_minutes: float | None = None,
    started: float | None = None,
) -> Run:
    """Go on from the last checkpoint of a run as if it had never stopped. `data`: where the prepared data lies now;
    `overrides`: `a.b=c` for keys that may change within a run; config.yaml is written anew. `max_minutes`, `started`:
    as `train` has them.

    Raises `UsageError` if there is nothing left to do up to `stop_step` or another process trains there,
    `CodecctlError` if the checkpoint misses a key or has a foreign one, and what `train` raises.
    """
    run = Run.at(folder)
    checkpoint, config = read_run_config(run)
    config, changes = change_config(config, run.config, overrides, data)
    limit = _time_limit(config, max_minutes, started)
    if checkpoint.step >= (stop_step or config.train.n_steps):
        raise UsageError(f"{run.last}: is at step {checkpoint.step} already; give more with --steps")
    crops = open_crops(config)
    with together(count_ranks(n_devices, n_nodes), run.folder, watcher.failed):
        fabric = make_fabric(config, device, n_devices, n_nodes)
        with _held(run, fabric):
            trainer = _Trainer(config, run, crops, fabric, watcher, limit)
            trainer.take_up(checkpoint)
            trainer.check()
            trainer.check_time()
            table = restored(trainer.state, checkpoint, config, trainer.steps_per_epoch, fabric.world_size)
            trainer.watcher.restored({**table, **changes})
            if fabric.is_global_zero:
                run.write_config(config)
            trainer.go(stop_step)
    return run


class _Trainer:
    """One run on its devices."""

    def __init__(
        self, config: Config, run: Run, crops: Crops, fabric: Fabric, watcher: Watcher, limit: TimeLimit
    ) -> None:
        self.config, self.run, self.crops, self.fabric, self.limit = config, run, crops, fabric, limit
        self.watcher = watcher if fabric.is_global_zero else Watcher()
        teacher = Teacher.load(config.train.semantic, config.model) if config.loss.semantic_weight else None
        head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
        self.state = start_state(config, fabric.device, head, self.steps_per_epoch)
        self.machine = assemble(self.state, config, fabric, teacher)
        self.counter = CodebookCounter(config.model.quantizer.codebook_sizes)  # of this rank's codes
        self.validation = ValidationSet.open(config.data.path, config.validation)
        self._saved_step: int | None = None  # of last.pt
        self._unread_skips: dict[int, Tensor] = {}  # `StepResult.skipped` by step
        settings = config.train
        self._reading_steps = (settings.log_every_steps, settings.validate_every_steps, settings.checkpoint_every_steps)

    @property
    def steps_per_epoch(self) -> float:
        return self.crops.n_samples / self.step_samples

    @property
    def step_samples(self) -> int:
        """Of audio that a step sees on all ranks."""
        settings = self.config.train
        return settings.batch_size * settings.accumulate * crop_samples(self.config) * self.fabric.world_size

    def take_up(self, checkpoint: Checkpoint) -> None:
        """The state of a checkpoint. Raises `CodecctlError` if its keys are others, or the ranks read other files."""
        load_state(self.state, checkpoint)
        self._saved_step = self.state.step
        self.counter.reset()
        if self.fabric.is_global_zero:
            self.counter.counts = [counts.numpy().copy() for counts in self.state.code_counts]
        check_same_books(self.fabric, self.state, self.run.folder)

    def check(self) -> None:
        """Raises `CodecctlError` if a first batch, or the disk, says that this run would fail."""
        found = preflight(self.state, self.machine, self.config, self.crops, self.run.folder)
        self.watcher.checked(found)
        self.watcher.will_validate(self.validation)

    def check_time(self) -> None:
        """Raises `UsageError`, on all ranks, if the time is over before the first step."""
        if largest(self.fabric, int(self.limit.is_over)):
            raise UsageError(
                f"--max-minutes {self.limit.minutes:g}: preparing the first step took {self.limit.minutes_passed:.2g} "
                "minutes; nothing was trained; give more"
            )

    def go(self, stop_step: int | None) -> None:
        """Train until `stop_step`, a signal, or the end of the time limit."""
        state, settings = self.state, self.config.train
        stop_step = stop_step or settings.n_steps
        self.watcher.started(self.run, state, self.config, stop_step, self.steps_per_epoch)
        clock = Clock(self.step_samples / self.config.model.sample_rate, self.fabric.device)
        with StopSignals(self.limit) as signals, self._open_log() as log, clock:
            if state.step > state.validated_step and state.step % settings.validate_every_steps == 0:
                self._validate(log, signals)  # a signal had ended it
            while state.step < stop_step:
                for batches in clock.waiting(self._batches(state.step, stop_step)):
                    result = train_step(state, batches, self.machine, self.config)
                    self.counter.update(result.codes)
                    throughput = clock.tick()
                    self.watcher.stepped(state.step, result, throughput)
                    self._unread_skips[state.step] = result.skipped
                    if any(_due(state.step, every, stop_step) for every in self._reading_steps):
                        self._read_skips()
                        if state.n_skipped >= _ROLL_BACK_AFTER:
                            self._roll_back()
                            break
                    if _due(state.step, settings.log_every_steps, stop_step):
                        self._gather_counts()
                        books = self.counter.stats()
                        self._log(log, "train", _numbers(result, throughput), books)
                        self.counter.reset()
                        self._watch_books(books, log)
                    if _due(state.step, settings.validate_every_steps, stop_step):
                        self._validate(log, signals)
                    stop = largest(self.fabric, signals.reason)
                    if _due(state.step, settings.checkpoint_every_steps, stop_step) or stop:
                        problem = self._save(log)
                        if problem and (stop or state.step == stop_step):
                            raise CodecctlError(f"{self.run.last}: {problem}; step {state.step} could not be saved")
                    if stop == TIME_IS_OVER and state.step < stop_step:
                        self.watcher.time_over(self.run, state.step)
                        return
                    if stop > TIME_IS_OVER:
                        message = f"stopped after step {state.step}, saved; `codecctl resume {self.run.folder}` goes on"
                        raise Interrupted(message, stop)

    def _read_skips(self) -> None:
        """Wait for the device to say which steps it skipped since this was last asked."""
        if self._unread_skips:
            flags = torch.stack([*self._unread_skips.values()]).tolist()
            for step, skipped in zip(self._unread_skips, flags, strict=True):
                self.state.n_skipped = self.state.n_skipped + 1 if skipped else 0
                if skipped:
                    self.watcher.warned(step, "the gradient is not finite: the step was skipped")
            self._unread_skips.clear()

    def _batches(self, first_step: int, stop_step: int) -> Iterator[list[Tensor]]:
        """This rank's crops of each step: `accumulate` batches [B, 1, L] on the device."""
        settings, fabric = self.config.train, self.fabric

        def cut(step: int) -> Tensor:
            n_crops = settings.batch_size * settings.accumulate
            return pinned(self.crops.batch(step, n_crops, fabric.global_rank, fabric.world_size), fabric.device)

        with Prefetcher(cut, first_step, self.config.data.n_workers) as prefetched:
            for step, audio in prefetched:
                yield [sent(part, fabric.device) for part in audio.chunk(settings.accumulate)]
                if step + 1 >= stop_step:
                    return

    def _validate(self, log: RunLog, signals: StopSignals) -> None:
        """Score the average, let TensorBoard keep some of what it says, and keep it if it is the best so far. A signal
        ends it; then the resumed run validates again."""
        state = self.state
        self._gather_counts()
        if self.fabric.is_global_zero:
            with contextlib.suppress(StopAsked):
                utterances = UntilStopped(self.validation.utterances, signals)
                scores = replace(self.validation, utterances=utterances).score(state.ema)
                state.validated_step = state.step
                distance = scores.values["mel_distance"]
                words = f"mel_distance {trend(log.earlier(state.step, 'validation', 'mel_distance'), distance)}"
                self._log(log, "validation", scores.values, scores.codebooks, words)
                self._try("NOT LOGGED", lambda: self._illustrate(scores, log))
                if distance < state.best_score:
                    state.best_score = distance
                    self._try(
                        "NOT SAVED", lambda: save_state(state, self.config, self.run.best, self.fabric.world_size)
                    )
                self.watcher.validated(state.step, scores, words)
        state.best_score, state.validated_step = self.fabric.broadcast((state.best_score, state.validated_step))

    def _illustrate(self, scores: Scores, log: RunLog) -> None:
        """What TensorBoard keeps of a validation to hear and to see."""
        log.histograms(self.state.step, scores.counts)
        step, rate = self.state.step, self.config.model.sample_rate
        for recording in self.validation.utterances[:_N_LISTENED]:
            original = next(recording.chunks(rate))
            decoded = _through(self.state.ema, original)
            log.audio(step, f"{recording.id}/decoded", decoded)
            log.spectrograms(step, f"{recording.id}/original_and_decoded", original, decoded)
            if step <= self.config.train.validate_every_steps:
                log.audio(step, f"{recording.id}/original", original)

    def _save(self, log: RunLog) -> str:
        """Write `last.pt`; returns what went wrong, if anything did. Raises `CodecctlError` if the ranks have come
        apart."""
        start = time.perf_counter()
        self._read_skips()
        check_same_books(self.fabric, self.state, self.run.folder)
        self._gather_counts()
        problem = ""
        if self.fabric.is_global_zero:
            state, n_ranks = self.state, self.fabric.world_size
            problem = self._try("NOT SAVED", lambda: save_last(self.run, state, self.config, n_ranks, self._saved_step))
        problem = self.fabric.broadcast(problem)
        seconds = time.perf_counter() - start
        if not problem:
            self._saved_step = self.state.step
            self._log(log, "checkpoint", {"save_seconds": seconds}, ())
            self.watcher.saved(self.state.step, seconds)
        return problem

    def _gather_counts(self) -> None:
        """Give the first rank what all have counted since the last line of the log."""
        mine = torch.from_numpy(np.concatenate(self.counter.counts)).to(self.fabric.device)
        total = cast(Tensor, self.fabric.all_reduce(mine, reduce_op="sum")).cpu()
        self.state.code_counts = list(torch.split(total, list(self.counter.codebook_sizes)))
        self.counter.reset()
        if self.fabric.is_global_zero:
            self.counter.counts = [counts.numpy().copy() for counts in self.state.code_counts]

    def _log(
        self, log: RunLog, kind: str, values: dict[str, float], books: Sequence[CodebookStats], words: str = ""
    ) -> None:
        self._try("NOT LOGGED", lambda: log.write(self.state.step, kind, values, books, words))

    def _try(self, what: str, write: Callable[[], None]) -> str:
        """A full disk must not end the run: the old file stays, and the next time there may be room."""
        try:
            write()
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
            self.watcher.warned(self.state.step, f"{what}: {problem}; the last checkpoint stays")
            return problem
        return ""

    def _roll_back(self) -> None:
        """Take up the last checkpoint again, at half the learning rates."""
        state = self.state
        n_rollbacks = state.n_rollbacks + 1
        if not self.run.last.exists() or n_rollbacks > _MAX_ROLLBACKS:
            raise CodecctlError(
                f"{self.run.folder}: gradients stay infinite at step {state.step} after {n_rollbacks - 1} roll-backs; "
                "look at the losses in metrics.jsonl, lower train.learning_rate, or check the data"
            )
        self.take_up(Checkpoint.read(self.run.last, with_training=True))
        state.n_skipped = 0
        state.n_rollbacks, state.rate_factor = n_rollbacks, 0.5**n_rollbacks
        self.watcher.warned(state.step, f"rolled back to step {state.step}; learning rates x {state.rate_factor:g}")

    def _watch_books(self, books: Sequence[CodebookStats], log: RunLog) -> None:
        """An alarm for each book that hardly codes anything; a stop when one stays so. The first rank decides: it alone
        has all counts."""
        state = self.state
        reason = ""
        for k, book in enumerate(books):
            share = book.perplexity / max(1, min(book.codebook_size, book.n_codes))
            collapsed = book.n_codes and share < _MIN_PERPLEXITY
            state.n_alarms[k] = state.n_alarms[k] + 1 if collapsed else 0
            if state.n_alarms[k] == _ALARM_AFTER:
                self.watcher.warned(state.step, f"book {k + 1} collapses: perplexity {book.perplexity:.1f}")
            if state.n_alarms[k] >= _STOP_AFTER_ALARMS:
                reason = reason or (
                    f"book {k + 1} has collapsed (perplexity {book.perplexity:.1f} of {book.codebook_size}) for "
                    f"{state.n_alarms[k]} logs"
                )
        state.n_alarms, reason = self.fabric.broadcast((state.n_alarms, reason))
        if reason:
            self._save(log)
            raise CodecctlError(
                f"{self.run.folder}: {reason}; saved at step {state.step}; try a lower train.learning_rate or "
                "model.quantizer.ema_decay"
            )

    def _open_log(self) -> RunLog:
        if not self.fabric.is_global_zero:
            return NoLog()
        return RunLog(self.run, self.state.step, self.config.model.sample_rate)


def _held(run: Run, fabric: Fabric) -> AbstractContextManager[None]:
    """Only the first rank writes, and keeps others out."""
    return run.held() if fabric.is_global_zero else contextlib.nullcontext()


def start_codebooks(state: TrainState, config: Config, crops: Crops, fabric: Fabric) -> None:
    """k-means on latents of crops, before the first step; the first rank's books are everyone's."""
    n_frames = config.train.kmeans_vectors
    n_crops = -(-n_frames * config.model.hop_length // crops.crop_samples)
    audio = crops.batch(0, n_crops).to(state.device)
    state.codec.fit_front(audio)
    # What is compiled for training crops would be compiled anew for these.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        parts = torch.split(audio, config.train.batch_size)
        latents = torch.cat([state.codec.encode_latents(part).mT.flatten(0, 1) for part in parts])  # [B x T, D]
    state.codec.quantizer.fit(latents[:n_frames], step_generator(config.train.seed, 0, _KMEANS))
    weights = fabric.broadcast(state.codec.state_dict())
    state.codec.load_state_dict(weights)
    state.ema.load_state_dict(weights)


def _time_limit(config: Config, max_minutes: float | None, started: float | None) -> TimeLimit:
    """The command's own limit comes before the config's."""
    minutes = config.train.max_minutes if max_minutes is None else max_minutes
    return TimeLimit(minutes, time.monotonic() if started is None else started)


def crop_samples(config: Config) -> int:
    """The crop's length in whole frames."""
    return max(1, round(config.data.crop_seconds * config.model.frame_rate)) * config.model.hop_length


def open_crops(config: Config) -> Crops:
    """What the config trains on. Raises `CodecctlError` if the prepared folder is not there."""
    peak = FRONTS[config.model.front.kind].peak
    return Crops(config.data.path, "train", crop_samples(config), config.train.seed, config.data, peak)


@torch.inference_mode()
def _through(codec: Codec, audio: Tensor) -> Tensor:
    """[1, L] -> what the codec makes of it, [1, L] on the CPU."""
    device = next(codec.parameters()).device
    decoded: Tensor = codec(audio.to(device)[None]).audio[0].cpu()
    return decoded


def _due(step: int, every: int, stop_step: int) -> bool:
    return step % every == 0 or step == stop_step


def _numbers(result: StepResult, throughput: Throughput) -> dict[str, float]:
    """What a line of the log holds of a step: each loss, its weight and its share of the total."""
    total = float(result.total)
    numbers = {"total_loss": total}
    for name, value in result.losses.items():
        numbers[f"{name}_loss"] = float(value)
        if name in result.weights:
            numbers[f"{name}_weight"] = result.weights[name]
            numbers[f"{name}_share"] = float(value) * result.weights[name] / total if total else math.nan
    numbers["gradient_norm"] = float(result.gradient_norm)
    if result.discriminator_gradient_norm is not None:
        numbers["discriminator_gradient_norm"] = float(result.discriminator_gradient_norm)
    speed = {name: value for name, value in asdict(throughput).items() if value is not None}
    return {**numbers, "learning_rate": result.learning_rate, **speed}
