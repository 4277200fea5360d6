"""Independent units of work, here or on a Ray cluster, and the markers that say which are done."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def run_units(
    work: Callable[[Unit], Result], units: Sequence[Unit], *, n_workers: int = 1, executor: str = "processes"
) -> Iterator[tuple[Unit, Result]]:
    """(unit, work(unit)) for each unit, in the order in which they are done.

    `work` is a function of a module or a `functools.partial` of one; its argument and result can be pickled. With one
    worker it is simply called. An exception in `work` ends the run and is raised here; units that are done stay done.
    """
    if executor == "ray":
        yield from _run_on_ray(work, units, n_workers)
    elif executor != "processes":
        raise UsageError(f"executor '{executor}': there are 'processes' and 'ray'")
    elif n_workers <= 1 or len(units) <= 1:
        yield from ((unit, work(unit)) for unit in units)
    else:
        yield from _run_in_processes(work, units, min(n_workers, len(units)))


def parse_shard(text: str) -> tuple[int, int]:
    """'i/n' -> (i, n) with 1 <= i <= n: which part of the units this job does."""
    part, slash, whole = text.partition("/")
    if not (slash and part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise UsageError(f"--shard {text}: expected i/n, such as 3/8 for the third of eight jobs")
    return int(part), int(whole)


def hash_of(*values: Any) -> str:
    """A short hash of what JSON can hold, the same on every machine."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def is_done(marker: Path, input_hash: str) -> bool:
    """Whether `mark_done` was called with this hash."""
    return bool(read_marker(marker).get("input") == input_hash)


def read_marker(marker: Path) -> dict[str, Any]:
    """The hash (`input`) and the facts that `mark_done` wrote; empty if it did not."""
    try:
        facts = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def mark_done(marker: Path, input_hash: str, **facts: Any) -> None:
    """Say that a unit's outputs are all in place; written last, all or nothing. `facts` are kept for `read_marker`."""
    with replacing(marker) as partial:
        partial.write_text(json.dumps({"input": input_hash, **facts}, ensure_ascii=False), encoding="utf-8")


def _run_in_processes(
    work: Callable[[Unit], Result], units: Sequence[Unit], n_workers: int
) -> Iterator[tuple[Unit, Result]]:
    # "spawn" alone is safe whatever threads (torch, a progress bar) the caller runs, and is the same everywhere.
    pool = ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))
    waiting = iter(units)
    running: dict[Future[Result], Unit] = {}
    try:
        while True:
            while len(running) < 2 * n_workers and (unit := next(waiting, None)) is not None:
                running[pool.submit(work, unit)] = unit
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise CodecctlError(
            "a worker process was killed, perhaps for lack of memory; run the same command again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_on_ray(work: Callable[[Unit], Result], units: Sequence[Unit], n_workers: int) -> Iterator[tuple[Unit, Result]]:
    """On the cluster that `RAY_ADDRESS` or this machine's Ray names; n_workers tasks at a time if that is said."""
    try:
        ray = import_module("ray")
    except ImportError:
        raise UsageError("executor 'ray' needs Ray: pip install 'codecctl[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            hint = "start one with `ray start --head` or set RAY_ADDRESS"
            raise UsageError(f"executor 'ray' finds no cluster; {hint}") from None

    def call(unit: Unit) -> Result:  # Ray takes functions alone, no `partial`
        return work(unit)

    task = ray.remote(max_retries=2)(call)
    n_ahead = n_workers if n_workers > 1 else 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(units)
    running: dict[Any, Unit] = {}
    try:
        while True:
            while len(running) < n_ahead and (unit := next(waiting, None)) is not None:
                running[task.remote(unit)] = unit
            if not running:
                break
            for reference in ray.wait(list(running))[0]:
                unit = running.pop(reference)
                yield unit, ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CodecctlError) else error) from None
    except ray.exceptions.RayError as error:
        said = str(error).splitlines()[0]
        raise CodecctlError(f"the Ray cluster lost a unit ({said}); run the same command again") from None
    finally:
        for reference in running:
            ray.cancel(reference)
