"""Two ranks: what one of them meets is decided for both, and when one ends, both do, with one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from codecctl.errors import UsageError
from codecctl.inference.checkpoint import Checkpoint
from codecctl.train.launch import count_ranks
from tests.train.tiny import tiny_yaml

Seen = list[dict[str, Any]]
SMALL = ("model.front.strides=[8,16]", "model.transformer.look_back_frames=200")


@pytest.fixture(scope="module")
def acted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each rank saw in each scenario."""
    folder = tmp_path_factory.mktemp("scenarios")
    config = tiny_yaml(folder, prepared, *SMALL, "train.n_steps=7")
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


def test_both_roll_back(acted: Path) -> None:
    first, second = seen(acted, "two_batches_are_not_finite")
    assert first["skipped"] == second["skipped"] == [4, 5]
    assert "rolled back to step 4; learning rates x 0.5" in first["warnings"]
    assert first["books"] == second["books"]
    assert first["step"] == second["step"] == 7


def test_codebooks_that_come_apart_are_not_saved(acted: Path) -> None:
    told, quiet = sorted(seen(acted, "a_book_moves_alone"), key=lambda rank: rank["raised"] == "ReportedElsewhere")
    assert (told["raised"], quiet["raised"]) == ("CodecctlError", "ReportedElsewhere")
    assert "at step 7 the codebooks of process 1 are not those of process 0: nothing saved" in told["message"]
    assert not (acted / "a_book_moves_alone" / "last.pt").exists()


def test_a_collapse_stops_both(acted: Path) -> None:
    told, quiet = sorted(seen(acted, "a_book_collapses"), key=lambda rank: rank["raised"] == "ReportedElsewhere")
    assert (told["code"], quiet["code"], quiet["raised"]) == (1, 1, "ReportedElsewhere")
    assert "codebook 1 has collapsed" in told["message"]
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


def test_when_the_first_process_dies_the_other_says_so(acted: Path) -> None:
    assert not (acted / "the_first_dies-0.json").exists()
    second = json.loads((acted / "the_first_dies-1.json").read_text())
    assert second["code"] == 1
    assert "another process of the run is gone" in second["message"]
    assert f"`codecctl resume {acted / 'the_first_dies'}` goes on" in second["message"]


def test_srun_starts_the_same_run(acted: Path) -> None:
    first, second = seen(acted, "nothing_happens")
    assert (first["raised"], second["raised"]) == (None, None), first
    assert first["books"] == second["books"]
    assert Checkpoint.read(acted / "nothing_happens" / "last.pt").run["n_ranks"] == 2


def test_fewer_and_more_ranks_go_on_and_say_what_is_another_now(acted: Path) -> None:
    """Two ranks to step 3, one to 5, two to 7."""
    fewer, more = (json.loads((acted / f"restored-{n}.json").read_text())["processes"] for n in (1, 2))
    assert fewer.startswith("1 instead of 2: a step hears 2 crops instead of 4, an epoch is")
    assert fewer.endswith("--devices 2 would go on as it was")
    assert more.startswith("2 instead of 1: a step hears 4 crops instead of 2, an epoch is")
    after = Checkpoint.read(acted / "a_signal_comes" / "last.pt")
    assert (after.step, after.run["n_ranks"]) == (7, 2)


def test_who_started_the_processes_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_several_machines_must_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="--nodes 2: start the command with torchrun or srun, or set MASTER_ADDR"):
        count_ranks(1, 2)


def test_a_killed_process_takes_the_run_down(prepared: Path, tmp_path: Path) -> None:
    config, run = tiny_yaml(tmp_path, prepared, *SMALL, "train.n_steps=100000"), tmp_path / "run"
    command = [sys.executable, "-m", "codecctl.cli.main", "train", "--config", config, "--run", run]
    process = subprocess.Popen(
        [*command, "--devices", "2", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    start = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert time.monotonic() - start < 60  # seconds on a machine that is not busy; a hang would be half an hour
    assert f"{run}: process 1 was killed (SIGKILL): all processes stop; `codecctl resume" in err.replace("\n", " ")
    assert err.count("error:") == 1
    assert "Traceback" not in err
