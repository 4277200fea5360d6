"""The training loop: from a config and prepared data to a run folder, and on from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from codecctl.config import Config
from codecctl.data.crops import Crops, Prefetcher
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.evaluate.validate import Scores, ValidationSet
from codecctl.model.codec import Codec
from codecctl.train.checkpoint import Run, load_state, save_state
from codecctl.train.log import RunLog
from codecctl.train.losses import ReconstructionLosses
from codecctl.train.signals import StopSignals
from codecctl.train.state import TrainState, start_state, step_generator
from codecctl.train.step import StepResult, train_step

_KMEANS = 2  # a purpose of randomness, see step.py
_N_LISTENED = 3  # validation recordings that TensorBoard keeps to listen to


class Watcher:
    """Who is told what happens in a run; this one does not care. The command line's shows it."""

    def started(self, run: Run, state: TrainState, config: Config, stop_step: int, steps_per_epoch: float) -> None: ...

    def stepped(self, step: int, result: StepResult, audio_seconds_per_second: float) -> None: ...

    def validated(self, step: int, scores: Scores, improved: bool) -> None: ...


def train(config: Config, folder: Path, device: torch.device, watcher: Watcher, stop_step: int | None = None) -> Run:
    """Start a run in `folder` and train until `stop_step` (None: `train.n_steps`).

    Raises `UsageError` if a run is there already, `CodecctlError` if the prepared data is missing, `Interrupted` after
    SIGINT or SIGTERM, when the state has been saved.
    """
    crops = _open_crops(config)
    run = Run(folder)
    run.create(config)
    state = start_state(config, device)
    _go(state, config, run, crops, watcher, stop_step)
    return run


def resume(
    folder: Path, device: torch.device, watcher: Watcher, stop_step: int | None = None, data: str | None = None
) -> Run:
    """Go on from the last checkpoint of a run as if it had never stopped. `data`: where the prepared data lies now.

    Raises `UsageError` if there is nothing left to do up to `stop_step`, and what `train` raises.
    """
    run = Run(folder)
    if not run.last.exists():
        raise CodecctlError(f"{run.last}: no such file; start the run with `codecctl train --run {folder}`")
    state, config = load_state(run.last, device)
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
    if state.step >= (stop_step or config.train.n_steps):
        raise UsageError(f"{run.last}: is at step {state.step} already; give more with --steps")
    _go(state, config, run, _open_crops(config), watcher, stop_step)
    return run


def _go(state: TrainState, config: Config, run: Run, crops: Crops, watcher: Watcher, stop_step: int | None) -> None:
    settings, device = config.train, next(state.codec.parameters()).device
    stop_step = stop_step or settings.n_steps
    losses = ReconstructionLosses(config.loss, config.model.sample_rate).to(device)
    validation = ValidationSet.open(config.data.path, config.validation.n_utterances)
    watcher.started(run, state, config, stop_step, crops.n_samples / _batch_samples(config))
    if state.step == 0:
        start_codebooks(state, config, crops)

    counter = CodebookCounter(config.model.quantizer.codebook_sizes)
    clock = _Clock(_batch_samples(config) / config.model.sample_rate)
    with StopSignals() as signals, RunLog(run, state.step, config.model.sample_rate) as log:
        for audio in _batches(crops, config, state.step, stop_step):
            result = train_step(state, audio.to(device, non_blocking=True), losses, config)
            counter.update(result.codes)
            watcher.stepped(state.step, result, clock.tick())
            if _due(state.step, settings.log_every_steps, stop_step):
                log.write(state.step, "train", _numbers(result, clock.speed), counter.stats())
                counter.reset()
            if _due(state.step, settings.validate_every_steps, stop_step):
                _validate(state, config, validation, run, log, watcher)
            if _due(state.step, settings.checkpoint_every_steps, stop_step) or signals.received:
                save_state(state, config, run.last)
            if signals.received:
                raise Interrupted(
                    f"stopped after step {state.step}, saved; `codecctl resume {run.folder}` goes on", signals.received
                )


def start_codebooks(state: TrainState, config: Config, crops: Crops) -> None:
    """k-means on latents of the first crops, before the first step."""
    device = next(state.codec.parameters()).device
    n_frames = config.train.kmeans_vectors
    latents: list[Tensor] = []
    with torch.no_grad():
        for audio in _batches(crops, config, 0, config.train.n_steps):
            latents.append(state.codec.encoder(audio.to(device)).mT.flatten(0, 1))  # [B x T, D]
            if sum(map(len, latents)) >= n_frames:
                break
    state.codec.quantizer.fit(torch.cat(latents)[:n_frames], step_generator(config.train.seed, 0, _KMEANS))


def _batches(crops: Crops, config: Config, first_step: int, stop_step: int) -> Iterator[Tensor]:
    """The crops [B, 1, L] of each step from `first_step` to `stop_step`."""

    def cut(step: int) -> Tensor:
        return crops.batch(step, config.train.batch_size)

    with Prefetcher(cut, first_step, config.data.n_workers) as batches:
        for step, audio in batches:
            yield audio
            if step + 1 >= stop_step:
                return


def _validate(
    state: TrainState, config: Config, validation: ValidationSet, run: Run, log: RunLog, watcher: Watcher
) -> None:
    """Score the codec, let TensorBoard keep some of what it says, and keep it if it is the best so far."""
    scores = validation.score(state.codec)
    log.write(state.step, "validation", scores.values, scores.books)
    for recording in validation.recordings[:_N_LISTENED]:
        original, decoded = _through(state.codec, next(recording.pieces(config.model.sample_rate)))
        log.audio(state.step, f"{recording.id}/decoded", decoded)
        if state.step <= config.train.validate_every_steps:
            log.audio(state.step, f"{recording.id}/original", original)
    improved = scores.values["mel_distance"] < state.best_score
    if improved:
        state.best_score = scores.values["mel_distance"]
        save_state(state, config, run.best)
    watcher.validated(state.step, scores, improved)


@torch.inference_mode()
def _through(codec: Codec, audio: Tensor) -> tuple[Tensor, Tensor]:
    """[1, L] -> itself and what the codec makes of it, both [1, L] on the CPU."""
    device = next(codec.parameters()).device
    return audio, codec(audio.to(device)[None]).audio[0].cpu()


def _due(step: int, every: int, stop_step: int) -> bool:
    return step % every == 0 or step == stop_step


def _open_crops(config: Config) -> Crops:
    return Crops(config.data.path, "train", _segment_samples(config), config.train.seed, config.data)


def _segment_samples(config: Config) -> int:
    """The crop's length in whole frames."""
    hop_length = config.model.hop_length
    return max(1, round(config.data.segment_seconds * config.model.frame_rate)) * hop_length


def _batch_samples(config: Config) -> int:
    return config.train.batch_size * _segment_samples(config)


def _numbers(result: StepResult, speed: float) -> dict[str, float]:
    """What a line of the log holds of a step."""
    return {
        "total_loss": float(result.total),
        **{f"{name}_loss": float(value) for name, value in result.losses.items()},
        "gradient_norm": float(result.gradient_norm),
        "learning_rate": result.learning_rate,
        "audio_seconds_per_second": speed,
    }


class _Clock:
    """The speed of the last steps in seconds of audio a second, recent ones weighing more."""

    def __init__(self, audio_seconds_per_step: float) -> None:
        self.speed = 0.0
        self._audio_seconds = audio_seconds_per_step
        self._last = time.perf_counter()

    def tick(self) -> float:
        now = time.perf_counter()
        speed = self._audio_seconds / (now - self._last)
        self.speed = 0.9 * self.speed + 0.1 * speed if self.speed else speed
        self._last = now
        return self.speed
