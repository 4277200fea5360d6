"""What a run does beyond the bare update: adversaries, frozen parts, accumulation, bad gradients, several ranks."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codecctl.errors import CodecctlError
from codecctl.evaluate.scorer import Scores, ValidationSet
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec, save_codec
from codecctl.train import alarms, loop
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.checkpoint import Run, take_weights
from codecctl.train.loop import resume, train
from codecctl.train.setup import start_state
from codecctl.train.state import TrainState
from codecctl.train.step import StepResult, loss_weights, train_step
from codecctl.train.timer import Throughput
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context, tiny_yaml

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Recorder(TrainingCallbacks):
    def __init__(self) -> None:
        self.results: list[StepResult] = []
        self.warnings: list[str] = []

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        self.results.append(result)

    def warned(self, step: int, message: str) -> None:
        self.warnings.append(message)


def crops(n: int) -> Tensor:
    return 0.1 * torch.randn(n, 1, 3200, generator=torch.Generator().manual_seed(n))


def test_adversarial_weights_start_at_their_step_and_rise() -> None:
    config = tiny_config(Path("unused"), *ADVERSARIAL)
    weights = [loss_weights(config, step, adversarial_step=10) for step in (9, 10, 11, 13, 50)]
    assert "adversarial" not in weights[0]
    assert [w["feature"] for w in weights[1:]] == [0.5, 1.0, 2.0, 2.0]


def test_discriminators_learn_and_give_losses(prepared: Path, tmp_path: Path) -> None:
    watcher = Recorder()
    train(tiny_config(prepared, *ADVERSARIAL), tmp_path / "run", CPU, watcher)
    first, last = watcher.results[0].losses, watcher.results[-1].losses
    assert {"discriminator", "adversarial", "feature"} <= first.keys()
    assert last["discriminator"] < first["discriminator"]


def test_frozen_parts_keep_the_codes(prepared: Path, tmp_path: Path) -> None:
    base = train(tiny_config(prepared), tmp_path / "base", CPU, TrainingCallbacks(), stop_step=2)
    config = tiny_config(prepared, "train.freeze=[encoder,quantizer]")
    tuned = train(config, tmp_path / "tuned", CPU, TrainingCallbacks(), start_from=base.last)
    before, after = Codec.load(base.last, "cpu"), Codec.load(tuned.last, "cpu")
    assert before.fingerprint == after.fingerprint
    assert not torch.equal(before.decoder.first.conv.weight, after.decoder.first.conv.weight)


def test_weights_with_other_latent_keys_are_refused(tmp_path: Path) -> None:
    front = "model.front={kind: transform, hop_length: 32, low_coefficients: 5, high_bands: 3, first_band: 5}"
    predicted = tiny_config(Path("unused"), front)
    path = tmp_path / "other.pt"
    save_codec(start_state(predicted, CPU).codec, path)
    take_weights(start_state(predicted, CPU), path)
    with pytest.raises(
        CodecctlError, match=r"0\.4 there, 0\.0 in the config; --set model\.front\.level_prediction=0\.4"
    ):
        take_weights(start_state(tiny_config(Path("unused"), front, "model.front.level_prediction=0"), CPU), path)


def test_a_front_with_more_layers_goes_on_from_one_with_fewer(tmp_path: Path) -> None:
    front = "hop_length: 32, low_coefficients: 5, high_bands: 3, first_band: 5"
    path = tmp_path / "other.pt"
    other = start_state(tiny_config(Path("unused"), f"model.front={{kind: transform, {front}}}"), CPU).codec
    save_codec(other, path)
    sizes = "fine_channels: 8, n_fine_blocks: 1"
    state = start_state(
        tiny_config(Path("unused"), f"model.front={{kind: refined, {front}, {sizes}}}", "train.seed=1"), CPU
    )
    drawn = state.codec.decoder.refiner.first.weight.clone()
    assert take_weights(state, path) == ["decoder.refiner"]
    for codec in (state.codec, state.ema):
        assert torch.equal(drawn, codec.decoder.refiner.first.weight)
        codes = other.encode(crops(1))
        torch.testing.assert_close(codec.decode(codes), other.decode(codes), rtol=0, atol=1e-6)
    save_codec(state.codec, tmp_path / "new.pt")
    with pytest.raises(CodecctlError, match=r"lacks; try --set model\.front\.kind=refined"):
        take_weights(
            start_state(tiny_config(Path("unused"), f"model.front={{kind: transform, {front}}}"), CPU),
            tmp_path / "new.pt",
        )
    assert Codec.load(path, "cpu").fingerprint == Codec.load(tmp_path / "new.pt", "cpu").fingerprint
    unlike = tiny_config(Path("unused"), f"model.front={{kind: refined, {front}, {sizes}, level_prediction: 0}}")
    with pytest.raises(CodecctlError, match=r"level_prediction is 0\.4 there"):
        take_weights(start_state(unlike, CPU), path)


def test_accumulated_batches_are_one_batch() -> None:
    config = tiny_config(Path("unused"), "model.quantizer.quantizer_dropout=0.5")
    audio, states = crops(4), [start_state(config, CPU) for _ in range(2)]
    results = [
        train_step(state, batches, tiny_context(state, config), config)
        for state, batches in zip(states, ([audio], list(audio.chunk(2))), strict=True)
    ]
    torch.testing.assert_close(results[0].gradient_norm, results[1].gradient_norm)
    assert torch.equal(results[0].codes, results[1].codes)


def test_a_step_without_finite_gradient_changes_no_weight() -> None:
    config = tiny_config(Path("unused"))
    state = start_state(config, CPU)
    before = {name: value.clone() for name, value in state.codec.state_dict().items()}
    result = train_step(state, [torch.full((2, 1, 3200), float("nan"))], tiny_context(state, config), config)
    assert result.skipped
    assert state.step == 1
    assert all(torch.equal(value, before[name]) for name, value in state.codec.state_dict().items())


def test_bad_gradients_in_a_row_roll_back_and_then_stop(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(prepared, "train.n_steps=20", "train.checkpoint_every_steps=2")
    monkeypatch.setattr(alarms, "ROLL_BACK_AFTER", 2)
    monkeypatch.setattr(alarms, "MAX_ROLLBACKS", 1)

    def poisoned(state, batches, context, config):  # type: ignore[no-untyped-def]
        poison = float("nan") if state.step >= 4 else 1.0
        return train_step(state, [batch * poison for batch in batches], context, config)

    monkeypatch.setattr(loop, "train_step", poisoned)
    watcher = Recorder()
    with pytest.raises(CodecctlError, match="after 1 roll-backs"):
        train(config, tmp_path / "run", CPU, watcher)
    assert "rolled back to step 4; learning rates x 0.5" in watcher.warnings
    assert watcher.results[-1].learning_rate < watcher.results[3].learning_rate


class FullFrom(Recorder):
    """From one step on no file can grow, as on a full disk, until another."""

    def __init__(self, run: Run, first: int, last: int) -> None:
        super().__init__()
        self.run, self.first, self.last, self.kept = run, first, last, -1

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        if step == self.first:
            self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, self.limits[1]))
        if step == self.last:
            self.kept = Checkpoint.read(self.run.last).step
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_the_best_model_is_that_of_the_best_score_after_a_full_disk(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores 2, 1 and 1.5: the second could not be saved, so the third is the best."""
    distances, score, save = iter([2.0, 1.0, 1.5]), ValidationSet.score, loop.save_state

    def scored(*arguments: Any) -> Scores:
        scores = score(*arguments)
        return replace(scores, values={**scores.values, "mel_distance": next(distances)})

    def full_at_second(state: TrainState, *arguments: Any) -> None:
        if state.step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, *arguments)

    monkeypatch.setattr(ValidationSet, "score", scored)
    monkeypatch.setattr(loop, "save_state", full_at_second)
    run = train(tiny_config(prepared, "train.validate_every_steps=1"), tmp_path / "run", CPU, Recorder(), stop_step=3)
    assert Checkpoint.read(run.best).step == 3


def test_a_full_disk_does_not_end_the_run(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(prepared, "train.checkpoint_every_steps=2", "train.log_every_steps=2")
    watcher = FullFrom(Run(tmp_path / "run"), 3, 5)
    run = train(config, tmp_path / "run", CPU, watcher)
    assert watcher.warnings == ["NOT SAVED: File too large; the last checkpoint stays"]
    assert watcher.kept == 2  # whole, while the disk was full
    assert Checkpoint.read(run.last).step == 6
    saves = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["step"] for line in saves if line["kind"] == "checkpoint" and line["save_seconds"] > 0] == [2, 6]


def test_two_ranks_train_one_codec(prepared: Path, tmp_path: Path) -> None:
    """Two processes of half the batch, started by torchrun: the same gradient as one of the whole, and one set of
    codebooks."""
    changes = [*ADVERSARIAL, "train.batch_size=4", "model.quantizer.gain=true"]
    one = tiny_yaml(tmp_path, prepared, *changes)
    train(tiny_config(prepared, *changes), tmp_path / "one", CPU, TrainingCallbacks(), stop_step=1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "--", "codecctl.cli.main", "train", "--config", one, "--set", "train.batch_size=2"]
    process = subprocess.run(
        [*command, "--run", tmp_path / "two", "--steps", "1", "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    first, second = (json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[0]) for n in ("one", "two"))
    assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=1e-3)
    models = [Checkpoint.read(tmp_path / n / "last.pt", with_training=True).training["codec"] for n in ("one", "two")]
    for name in ("quantizer.codebooks.0.codewords", "quantizer.gains"):
        torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-3, atol=1e-4)


def test_a_codec_without_training_is_used_but_not_resumed(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(Path("unused"))
    save_codec(start_state(config, CPU).codec, tmp_path / "last.pt")
    assert Codec.load(tmp_path / "last.pt", "cpu").fingerprint
    with pytest.raises(CodecctlError, match="holds a model alone"):
        resume(tmp_path, CPU, TrainingCallbacks(), data=str(prepared))
