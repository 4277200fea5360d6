"""A training state on disk: whole, or the one before."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from codecctl.inference.load import Codec
from codecctl.train.checkpoint import Run, load_state, read_run_config, save_last, save_state
from codecctl.train.setup import start_state
from codecctl.train.state import TrainState
from codecctl.train.step import train_step
from tests.train.tiny import tiny_config, tiny_context

CPU = torch.device("cpu")

SAVE_FOREVER = """
import sys, torch
from pathlib import Path
from codecctl.train.checkpoint import save_state
from codecctl.train.setup import start_state
from tests.train.tiny import tiny_config
config = tiny_config(Path("unused"))
state = start_state(config, torch.device("cpu"))
while True:
    state.step += 1
    state.ema.encoder.get_parameter(sys.argv[2]).data.fill_(state.step)
    save_state(state, config, Path(sys.argv[1]), 1)
"""


@pytest.fixture
def config() -> Config:
    return tiny_config(Path("unused"))


@pytest.fixture
def state(config: Config) -> TrainState:
    """After two steps: the optimizer has something to remember."""
    state = start_state(config, CPU)
    context = tiny_context(state, config)
    for step in range(2):
        crops = 0.1 * torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(step))
        train_step(state, [crops], context, config)
    state.best_score = 0.75
    return state


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond: a write fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_loaded(state: TrainState, config: Config, tmp_path: Path) -> None:
    save_state(state, config, tmp_path / "last.pt", 1)
    read = Checkpoint.read(tmp_path / "last.pt", with_training=True)
    assert read.config() == config
    loaded = start_state(config.model_copy(update={"train": config.train.model_copy(update={"seed": 1})}), CPU)
    load_state(loaded, read)
    save_state(loaded, config, tmp_path / "again.pt", 1)
    again = Checkpoint.read(tmp_path / "again.pt", with_training=True)
    first, second = (tree_flatten([file.step, file.weights, file.training])[0] for file in (read, again))
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))
    assert loaded.codec.training
    assert (loaded.step, loaded.best_score) == (2, 0.75)


def test_a_checkpoint_says_what_it_is(state: TrainState, config: Config, tmp_path: Path) -> None:
    save_state(state, config, tmp_path / "last.pt", 1)
    checkpoint = Checkpoint.read(tmp_path / "last.pt")
    assert checkpoint.fingerprint == Codec.load(tmp_path / "last.pt", "cpu").fingerprint
    assert set(checkpoint.run["versions"]) == {"codecctl", "python", "torch", "numpy"}
    assert all(isinstance(version, str) for version in checkpoint.run["versions"].values())


@pytest.mark.parametrize("n_bytes", [0, 100, 5000, 40_000])
def test_a_save_that_fails_leaves_the_old_file(state: TrainState, config: Config, tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "last.pt"
    save_state(state, config, path, 1)
    old = path.read_bytes()
    assert n_bytes < len(old)
    state.step += 1
    with pytest.raises((OSError, CodecctlError)), files_up_to(n_bytes):
        save_state(state, config, path, 1)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.slow
def test_a_kill_during_a_save_leaves_a_whole_file(tmp_path: Path) -> None:
    name = next(name for name, _ in start_state(tiny_config(Path("unused")), CPU).codec.encoder.named_parameters())
    path = tmp_path / "last.pt"
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, path, name])
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)  # a hundred milliseconds hold several saves, and saving is all it does
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = Checkpoint.read(path)
    assert (checkpoint.weights[f"encoder.{name}"] == checkpoint.step).all()


def test_one_process_trains_in_a_folder_and_clears_up_after_the_dead(tmp_path: Path) -> None:
    run, half = Run(tmp_path / "run"), tmp_path / "run" / ".last.pt.4711.partial"
    with run.held():
        half.touch()  # as a process that is killed inside a save leaves it
        with pytest.raises(UsageError, match="run: another process trains there"), Run(run.folder).held():
            pass
        assert half.exists()
    with run.held():
        assert not half.exists()
    assert not any(path.suffix for path in run.folder.iterdir())  # but its lease


@pytest.mark.slow
def test_older_checkpoints_are_kept_where_files_have_one_name_only(
    state: TrainState, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    config = config.model_copy(update={"train": config.train.model_copy(update={"keep_checkpoints": 2})})
    for state.step in (2, 4, 6):
        save_last(Run(tmp_path), state, config, 1, state.step - 2)
    kept = {path.name: Checkpoint.read(path).step for path in tmp_path.iterdir()}
    assert kept == {"last.pt": 6, "step-000000004.pt": 4}


@pytest.mark.slow
def test_a_run_before_its_first_checkpoint_is_not_taken_for_what_is_left_of_another(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    hold = "import sys, pathlib; from codecctl.train.checkpoint import Run\n"
    hold += "with Run(pathlib.Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, run.folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        run.write_config(load_config("smoke"))
        for refused in (run.refuse_taken, lambda: read_run_config(run)):
            with pytest.raises(UsageError, match=f"run: another process trains there .process {other.pid} on"):
                refused()
        other.communicate()
    with pytest.raises(UsageError, match=r"config.yaml: is of another run, which has no last.pt"):
        run.refuse_taken()
    with pytest.raises(CodecctlError, match=r"last.pt: no such file: no run has been saved there"):
        read_run_config(run)


def test_a_run_folder_is_made_once(state: TrainState, tmp_path: Path) -> None:
    run, config = Run(tmp_path / "deep" / "run"), load_config("smoke")
    run.create(config)
    assert load_config(run.config) == config
    with pytest.raises(UsageError, match=r"config.yaml: is of another run, which has no last.pt"):
        run.create(config)
    save_state(state, config, run.last, 1)
    with pytest.raises(UsageError, match=r"holds a run; `codecctl resume .*run` goes on, --run names another"):
        run.create(config)


@pytest.mark.parametrize("key", ["codec", "optimizer", "best_score"])
def test_a_missing_part_is_named(state: TrainState, config: Config, tmp_path: Path, key: str) -> None:
    save_state(state, config, tmp_path / "last.pt", 1)
    read = Checkpoint.read(tmp_path / "last.pt", with_training=True)
    training = {name: part for name, part in read.training.items() if name != key}
    with pytest.raises(CodecctlError, match=f"last.pt: '{key}' is missing"):
        load_state(state, replace(read, training=training))


def test_a_damaged_training_state_is_refused_and_its_model_is_not(
    state: TrainState, config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    save_state(state, config, path, 1)
    moment = max((m["exp_avg"] for m in state.optimizer.state.values()), key=torch.numel)
    content = path.read_bytes()
    place = content.index(moment.numpy().tobytes()) + 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert Checkpoint.read(path).step == 2
    with pytest.raises(CodecctlError, match=r"last\.pt: was changed or damaged: checksum differs"):
        Checkpoint.read(path, with_training=True)


def test_keys_of_the_training_do_not_decide_whether_the_model_loads(
    state: TrainState, config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    save_state(state, config, path, 1)
    read = Checkpoint.read(path)
    run = {**read.run, "config": {**read.run["config"], "lab": {"knob": 1}}, "versions": {"codecctl": "9.9"}}
    write_checkpoint(path, read.model, read.weights, read.step, run=run)
    assert Codec.load(path, "cpu").fingerprint == read.fingerprint
    with pytest.raises(CodecctlError, match=r"unknown key 'lab'.*written by codecctl 9\.9, this is"):
        Checkpoint.read(path).config()


def test_the_newest_checkpoints_stay(state: TrainState, config: Config, tmp_path: Path) -> None:
    config = config.model_copy(update={"train": config.train.model_copy(update={"keep_checkpoints": 3})})
    for state.step in (2, 4, 6, 8):
        save_last(Run(tmp_path), state, config, 1, state.step - 2)
    kept = {path.name: Checkpoint.read(path).step for path in tmp_path.iterdir()}
    assert kept == {"last.pt": 8, "step-000000006.pt": 6, "step-000000004.pt": 4}


def test_a_run_that_went_back_keeps_its_own_checkpoints(state: TrainState, config: Config, tmp_path: Path) -> None:
    """Those of the way that it left go first, whatever their steps."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"keep_checkpoints": 4})})
    run = Run(tmp_path)
    for state.step in (2, 4, 6, 8):
        save_last(run, state, config, 1, state.step - 2)
    run.last.write_bytes((tmp_path / "step-000000002.pt").read_bytes())
    state.best_score = 0.5
    for state.step in (4, 6):
        save_last(run, state, config, 1, state.step - 2)
    scores = {p.name: Checkpoint.read(p, with_training=True).training["best_score"] for p in tmp_path.glob("*.pt")}
    assert scores == {"last.pt": 0.5, "step-000000004.pt": 0.5, "step-000000002.pt": 0.75, "step-000000006.pt": 0.75}


def test_a_run_folder_that_was_copied_keeps_its_newest_checkpoints(
    state: TrainState, config: Config, tmp_path: Path
) -> None:
    """Whatever the times of the copies are."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"keep_checkpoints": 3})})
    run = Run(tmp_path)
    for state.step in (4, 6, 8):
        save_last(run, state, config, 1, state.step - 2)
    for number, path in enumerate([run.last, *run.older()]):
        os.utime(path, (number, number))
    state.step = 10
    save_last(run, state, config, 1, 8)
    assert [path.name for path in run.older()] == ["step-000000006.pt", "step-000000008.pt"]
