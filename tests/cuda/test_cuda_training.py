"""Training on a card: steps as on the CPU in every mode, without waiting, and in the memory that was planned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch import distributed as dist

from codecctl.config.load import load_config
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.device import find_device
from codecctl.train.bench import measure_steps
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.device import make_fabric, pinned, sent, several_ranks
from codecctl.train.graphs import N_PLAIN
from codecctl.train.loop import resume, train
from codecctl.train.plan import make_plan
from codecctl.train.setup import start_state
from codecctl.train.step import StepResult
from codecctl.train.timer import Throughput
from tests.cuda.card import CARD, CPU, MODEL, Record, config_of, largest_difference, run_steps
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_yaml

pytestmark = pytest.mark.cuda


def test_the_card_is_found(record: Record) -> None:
    assert find_device("auto").type == CARD.type
    found = torch.cuda.get_device_properties(0)
    record(
        f"{torch.cuda.device_count()} x {found.name}, {found.total_memory / 1e9:.0f} GB, compute "
        f"{found.major}.{found.minor}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"bfloat16 {torch.cuda.is_bf16_supported()}"
    )


def test_its_settings_are_on(record: Record, crops: Tensor) -> None:
    config = config_of()
    fabric = make_fabric(config, CARD)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.benchmark
    state = start_state(config, fabric.device, steps_per_epoch=100)
    assert state.discriminator_optimizer is not None
    assert all(o.defaults["fused"] for o in (state.optimizer, state.discriminator_optimizer))
    waiting = pinned(crops, CARD)
    assert waiting.is_pinned()
    assert torch.equal(sent(waiting, fabric.device).cpu(), crops)
    record("TF32, cuDNN autotuning, fused AdamW, pinned memory, asynchronous copies")


def test_a_step_is_that_of_the_cpu(record: Record, crops: Tensor) -> None:
    difference = largest_difference(run_steps(config_of(), CPU, crops), run_steps(config_of(), CARD, crops))
    record(f"three float32 steps, losses within {difference:.2%} of the CPU's")
    assert difference < 0.05


def test_a_bfloat16_step_is_near_the_float32_one(record: Record, crops: Tensor) -> None:
    half = config_of("train.precision=bfloat16")
    difference = largest_difference(run_steps(config_of(), CARD, crops), run_steps(half, CARD, crops))
    record(f"three steps, losses within {difference:.2%} of float32")
    assert difference < 0.15


def test_twenty_bfloat16_steps_learn(record: Record, crops: Tensor) -> None:
    config = config_of("train.precision=bfloat16", "train.learning_rate=2e-3", "train.n_steps=100")
    results = run_steps(config, CARD, crops, 20)
    losses = [float(result.losses["mel"]) for result in results]
    record(f"mel loss {sum(losses[:3]) / 3:.3f} in the first three steps, {sum(losses[-3:]) / 3:.3f} in the last three")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_replayed_steps_are_those_launched_kernel_by_kernel(record: Record, crops: Tensor) -> None:
    config, plain = config_of("train.cuda_graphs=true"), config_of("train.cuda_graphs=false")
    launched, replayed = run_steps(plain, CARD, crops, 8), run_steps(config, CARD, crops, 8)
    difference = largest_difference(launched, replayed)
    record(f"eight float32 steps, three before recording: losses within {difference:.2%}")
    assert difference < 0.02


class _ForbidWaiting(TrainingCallbacks):
    """Between two steps of a run, whatever makes the host wait for the card raises an error; so does a warning, such as
    that no step can be recorded."""

    def __init__(self, first_step: int, last_step: int) -> None:
        self.modes = {first_step: "error", last_step: "default"}

    def stepped(self, step: int, result: StepResult, throughput: Throughput) -> None:
        if step in self.modes:
            torch.cuda.set_sync_debug_mode(self.modes[step])

    def warned(self, step: int, message: str) -> None:
        raise AssertionError(message)


@pytest.fixture
def _waiting_allowed_again() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.usefixtures("_waiting_allowed_again")
def test_ten_steps_never_wait_for_the_card(record: Record, prepared: Path, tmp_path: Path, graphs: bool) -> None:
    """The whole loop between two lines of the log, with discriminators; a graph has been recorded by then."""
    far = ("train.n_steps=15", "train.log_every_steps=100", "train.precision=bfloat16")
    config = tiny_config(prepared, *ADVERSARIAL, *MODEL, *far, f"train.cuda_graphs={str(graphs).lower()}")
    first = N_PLAIN + 1
    train(config, tmp_path / "run", CARD, _ForbidWaiting(first, first + 10))
    record(f"no call waited for the card in ten {'replayed' if graphs else 'launched'} steps of a run")


def test_memory_and_time_of_a_step_are_those_of_the_plan(record: Record) -> None:
    """Production, small enough for any card; `bench --train` compares a profile's own batch."""
    changes = ["train.batch_size=4", "data.crop_seconds=2", "train.adversarial.heard_seconds=1"]
    config = load_config("production", overrides=[*changes, "train.precision=bfloat16", "data.n_workers=0"])
    times, plan = measure_steps(config, CARD, 5), make_plan(config).step
    assert times.peak_bytes is not None
    record(
        f"peak {times.peak_bytes / 1e9:.2f} GB, {plan.peak_bytes / 1e9:.2f} GB predicted; a step of 8 s of audio "
        f"{1000 * times.seconds:.0f} ms"
    )
    assert times.peak_bytes == pytest.approx(plan.peak_bytes, rel=0.15)


def test_one_nccl_process_takes_the_same_steps(record: Record, crops: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group of one: its wrappers and sums over ranks change nothing."""
    alone = run_steps(config_of(), CARD, crops)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    fabric = Fabric(accelerator=CARD.type, devices=1, strategy=several_ranks("nccl"))
    fabric.launch()
    try:
        assert dist.get_backend() == "nccl"
        difference = largest_difference(alone, run_steps(config_of(), CARD, crops, fabric=fabric))
    finally:
        dist.destroy_process_group()
    record(f"three float32 steps, losses within {difference:.2%} of those without a process group")
    assert difference < 0.01


def test_a_run_goes_on_elsewhere(record: Record, prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(prepared, *ADVERSARIAL, *MODEL, "train.n_steps=6")
    run = train(config, tmp_path / "run", CARD, TrainingCallbacks(), stop_step=2)
    resume(run.folder, CPU, TrainingCallbacks(), stop_step=4)
    resume(run.folder, CARD, TrainingCallbacks())
    events = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = [event["total_loss"] for event in events if event["kind"] == "train"]
    assert len(losses) == 6
    assert Checkpoint.read(run.last).step == 6
    record("two steps on the card, two on the CPU, two on the card: loss " + " ".join(f"{x:.2f}" for x in losses))


def test_two_cards_keep_one_codec(record: Record, prepared: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one card only")
    yaml = tiny_yaml(tmp_path, prepared, *ADVERSARIAL, *MODEL, "train.checkpoint_every_steps=2")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", yaml, "--run", run, "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Checkpoint.read(run / "last.pt", with_training=True).run["n_ranks"] == 2
    record("six steps over NCCL, codebooks equal at each of three saves")


def test_a_compiled_step_is_near_the_eager_one(record: Record, crops: Tensor) -> None:
    """On few layers: each shape of a layer is compiled by itself. The last test: it takes longest."""
    few = ("model.front.strides=[8,40]", "model.front.dilations=[1]")
    eager, compiled = (config_of(*few, f"train.compile={value}") for value in ("false", "true"))
    difference = largest_difference(run_steps(eager, CARD, crops), run_steps(compiled, CARD, crops))
    record(f"three steps, losses within {difference:.2%} of eager ones")
    assert difference < 0.05
