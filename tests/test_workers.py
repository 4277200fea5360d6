"""Units run once each, here or in processes; markers record which are done; the pool is bounded."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from codecctl.errors import CodecctlError, UsageError
from codecctl.workers import BoundedPool, hash_of, parse_shard, run_units, use_one_thread


def work(unit: int, *, folder: Path) -> int:
    (folder / str(unit)).write_text(str(os.getpid()))
    if unit == 13:
        raise CodecctlError("unit 13: bad luck")
    if unit == 14:
        os.kill(os.getpid(), 9)
    return unit * unit


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_unit_is_done_once(tmp_path: Path, n_workers: int) -> None:
    found = dict(run_units(partial(work, folder=tmp_path), range(7), n_workers=n_workers))
    assert found == {unit: unit * unit for unit in range(7)}
    processes = {path.read_text() for path in tmp_path.iterdir()}
    assert (str(os.getpid()) in processes) == (n_workers == 1)


def test_error_of_a_unit_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match="unit 13: bad luck"):
        list(run_units(partial(work, folder=tmp_path), [12, 13], n_workers=2))


def test_killed_worker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match=r"worker process was killed.* run the same command again"):
        list(run_units(partial(work, folder=tmp_path), [12, 14], n_workers=2))


def test_hash_depends_on_values_not_on_the_order_of_keys() -> None:
    assert hash_of({"b": 1, "a": [2, "ü"]}) == hash_of({"a": [2, "ü"], "b": 1}) != hash_of({"b": 1, "a": [2, "u"]})
    assert len({hash_of("\ud800"), hash_of("\ud801"), hash_of("\udc80")}) == 3


def test_parse_shard() -> None:
    assert parse_shard("3/8") == (3, 8)
    for text in ("0/8", "9/8", "3", "a/b", "-1/2", "/"):
        with pytest.raises(UsageError, match="expected i/n"):
            parse_shard(text)


def test_unknown_executor_is_an_error() -> None:
    with pytest.raises(UsageError, match="expected 'processes' or 'ray'"):
        list(run_units(abs, [1], executor="slurm"))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_pool_returns_results_and_exceptions_through_futures(n_workers: int) -> None:
    with BoundedPool(n_workers, "threads") as pool:
        futures = [pool.submit(divmod, 7, divisor) for divisor in (2, 0)]
        assert futures[0].result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            futures[1].result()


def test_pool_submits_no_more_than_twice_its_workers() -> None:
    release, submitted = threading.Event(), []
    with BoundedPool(1, "threads") as pool:
        for _ in range(2):
            submitted.append(pool.submit(release.wait, 30))
        third = threading.Thread(target=lambda: submitted.append(pool.submit(int)))
        third.start()
        third.join(0.2)
        assert len(submitted) == 2
        release.set()
        third.join(30)
        assert len(submitted) == 3


def test_pool_reports_a_killed_process() -> None:
    with pytest.raises(CodecctlError, match="worker process was killed"), BoundedPool(1) as pool:
        pool.submit(os._exit, 9).result()


def terminated(n: int) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return n


def test_workers_finish_after_a_signal_to_all_processes_of_a_job() -> None:
    with BoundedPool(1, initializer=use_one_thread) as pool:
        assert pool.submit(terminated, 7).result() == 7
