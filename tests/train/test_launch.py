"""Two ranks: decisions are taken for both, and when one ends, both end, with one message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from codecctl.errors import UsageError
from codecctl.inference.checkpoint import Checkpoint
from codecctl.train.launch import count_ranks
from tests.train.tiny import FEW_FRAMES, tiny_yaml

pytestmark = pytest.mark.slow

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def acted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each rank saw in each scenario."""
    folder = tmp_path_factory.mktemp("scenarios")
    config = tiny_yaml(folder, prepared, *FEW_FRAMES, "train.n_steps=7")
    command = [sys.executable, "-m", "tests.train.scenarios", config, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def seen(folder: Path, scenario: str) -> Seen:
    return [json.loads((folder / f"{scenario}-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_batch_that_is_not_finite_on_one_rank_is_skipped_on_both(acted: Path) -> None:
    first, second = seen(acted, "one_batch_is_not_finite")
    assert first["skipped"] == second["skipped"] == [4]
    assert first["books"] == second["books"]
    assert first["warnings"] == ["the gradient is not finite: the step was skipped"]
    assert (first["step"], second["step"], second["warnings"]) == (7, 7, [])


def test_two_ranks_roll_back_together(acted: Path) -> None:
    first, second = seen(acted, "two_batches_are_not_finite")
    assert first["skipped"] == second["skipped"] == [4, 5]
    assert "rolled back to step 4; learning rates x 0.5" in first["warnings"]
    assert first["books"] == second["books"]
    assert first["step"] == second["step"] == 7


def test_codebooks_that_come_apart_are_not_saved(acted: Path) -> None:
    reporter, other = sorted(seen(acted, "a_book_moves_alone"), key=lambda rank: rank["raised"] == "ReportedElsewhere")
    assert (reporter["raised"], other["raised"]) == ("CodecctlError", "ReportedElsewhere")
    assert "at step 7 the codebooks of process 1 are not those of process 0: nothing saved" in reporter["message"]
    assert not (acted / "a_book_moves_alone" / "last.pt").exists()


def test_a_collapsed_codebook_stops_both_ranks(acted: Path) -> None:
    reporter, other = sorted(seen(acted, "a_book_collapses"), key=lambda rank: rank["raised"] == "ReportedElsewhere")
    assert (reporter["code"], other["code"], other["raised"]) == (1, 1, "ReportedElsewhere")
    assert "codebook 1 has collapsed" in reporter["message"]
    assert Checkpoint.read(acted / "a_book_collapses" / "last.pt").step == 3


def test_a_signal_to_one_stops_both_after_the_same_step(acted: Path) -> None:
    ranks = seen(acted, "a_signal_comes")
    assert [rank["code"] for rank in ranks] == [143, 143]
    assert {rank["raised"] for rank in ranks} == {"Interrupted", "ReportedElsewhere"}
    assert [rank["step"] for rank in ranks] == [3, 3]


def test_the_end_of_the_time_on_one_stops_both_after_the_same_step(acted: Path) -> None:
    ranks = seen(acted, "the_time_is_over_on_one")
    assert [(rank["step"], rank["code"], rank["raised"]) for rank in ranks] == [(3, 0, None)] * 2
    assert Checkpoint.read(acted / "the_time_is_over_on_one" / "last.pt").step == 3


def test_an_exception_on_one_rank_ends_both_with_its_message(acted: Path) -> None:
    first, second = seen(acted, "an_exception_is_raised")
    assert (second["raised"], second["message"]) == ("CodecctlError", "a shard is broken")
    assert (first["raised"], first["code"]) == ("ReportedElsewhere", 1)


def test_the_death_of_the_first_rank_is_reported_by_the_other(acted: Path) -> None:
    assert not (acted / "the_first_dies-0.json").exists()
    second = json.loads((acted / "the_first_dies-1.json").read_text())
    assert second["code"] == 1
    assert "another process of the run is gone" in second["message"]
    assert f"`codecctl resume {acted / 'the_first_dies'}` goes on" in second["message"]


def test_a_run_under_srun(acted: Path) -> None:
    first, second = seen(acted, "nothing_happens")
    assert (first["raised"], second["raised"]) == (None, None), first
    assert first["books"] == second["books"]
    assert Checkpoint.read(acted / "nothing_happens" / "last.pt").run["n_ranks"] == 2


def test_a_resumed_run_names_another_number_of_ranks(acted: Path) -> None:
    """Two ranks to step 3, one to 5, two to 7."""
    fewer, more = (json.loads((acted / f"restored-{n}.json").read_text())["processes"] for n in (1, 2))
    assert fewer.startswith("1 instead of 2: a step has 2 crops instead of 4, an epoch is")
    assert fewer.endswith("--devices 2 would go on as it was")
    assert more.startswith("2 instead of 1: a step has 4 crops instead of 2, an epoch is")
    after = Checkpoint.read(acted / "a_signal_comes" / "last.pt")
    assert (after.step, after.run["n_ranks"]) == (7, 2)


def test_count_ranks_takes_the_numbers_of_torchrun_and_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (count_ranks(4, 1).n_devices, count_ranks(4, 1).n_ranks) == (4, 4)
    for name, value in {"SLURM_NTASKS": 8, "SLURM_NNODES": 2, "SLURM_PROCID": 0, "SLURM_JOB_NAME": "x"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    assert count_ranks().n_ranks == 1  # in the batch script: nobody has started eight
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    ranks = count_ranks()
    assert (ranks.n_devices, ranks.n_nodes, type(ranks.environment)) == (4, 2, SLURMEnvironment)
    with pytest.raises(UsageError, match="--devices 8 --nodes 1: srun started 4 processes on each of 2 machines"):
        count_ranks(8)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert (count_ranks().n_devices, count_ranks().n_nodes) == (2, 3)


def test_several_machines_need_the_address_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="--nodes 2: start the command with torchrun or srun, or set MASTER_ADDR"):
        count_ranks(1, 2)


@pytest.fixture
def training(prepared: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`codecctl train --devices 2` after its first step."""
    config, run = tiny_yaml(tmp_path, prepared, *FEW_FRAMES, "train.n_steps=100000"), tmp_path / "run"
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", config, "--run", run]
    process = subprocess.Popen(
        [*command, "--devices", "2", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    yield process
    process.kill()


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_a_killed_rank_ends_the_run_with_one_message(training: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(children(training)[1], signal.SIGKILL)
    out, err = training.communicate(timeout=120)  # a hang would be half an hour
    assert (training.returncode, out) == (1, "")
    message = f"{tmp_path / 'run'}: process 1 was killed (SIGKILL): all processes stop; `codecctl resume"
    assert message in err.replace("\n", " ")
    assert err.count("error:") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_ends_all_ranks_with_the_state_saved(
    training: subprocess.Popen[str], tmp_path: Path, number: int
) -> None:
    ranks = children(training)
    training.send_signal(number)
    out, err = training.communicate(timeout=120)
    assert (training.returncode, out) == (128 + number, "")
    assert len(re.findall("stopped after step [0-9]+, saved; `codecctl resume", err)) == 1
    assert "error:" not in err
    assert Checkpoint.read(tmp_path / "run" / "last.pt").step > 0
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
