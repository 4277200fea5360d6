"""What goes wrong on one of two ranks, and what both make of it: `python -m tests.train.scenarios CONFIG FOLDER` prints
as JSON, for each scenario, what each rank saw."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecctl.audio import Audio
from codecctl.cli.watch import describe_restored
from codecctl.config.load import load_config
from codecctl.data.crops import Crops
from codecctl.errors import CodecctlError
from codecctl.model.quantizer import ResidualVectorQuantizer
from codecctl.train import alarms, launch, loop
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.checkpoint import Restored
from codecctl.train.loop import resume, train
from codecctl.train.signals import TimeLimit
from codecctl.train.state import TrainState
from tests.train.forks import fork_ranks

CPU = torch.device("cpu")
cut = Crops.array
move_books = ResidualVectorQuantizer.update
learn = loop.train_step


class Recorder(TrainingCallbacks):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, step: int, message: str) -> None:
        self.warnings.append(message)


def spoilt(crops: Crops, on_rank: int, steps: set[int], step: int, *place: int, **named: int) -> Audio:
    """Crops that are not finite, on the second rank, the first time that it comes to these steps."""
    audio = cut(crops, step, *place, **named)
    if on_rank == 1 and step in steps:
        steps.remove(step)
        return np.full_like(audio, np.nan)
    return audio


def one_batch_is_not_finite(rank: int) -> list[str]:
    Crops.array = partialmethod(spoilt, rank, {3})  # type: ignore[assignment, method-assign]
    return []


def two_batches_are_not_finite(rank: int) -> list[str]:
    Crops.array = partialmethod(spoilt, rank, {3, 4})  # type: ignore[assignment, method-assign]
    alarms.ROLL_BACK_AFTER = 2
    return ["train.checkpoint_every_steps=2"]


def a_book_moves_alone(rank: int) -> list[str]:
    def move(quantizer: ResidualVectorQuantizer, *arguments: Any) -> None:
        move_books(quantizer, *arguments)
        quantizer.codebooks[1].codewords += 1e-6 * rank

    ResidualVectorQuantizer.update = move  # type: ignore[assignment, method-assign]
    return []


def a_book_collapses(rank: int) -> list[str]:
    alarms._MIN_PERPLEXITY, alarms._STOP_AFTER = 1.0, 3
    return []


def a_signal_comes(rank: int) -> list[str]:
    def signalled(state: TrainState, *arguments: Any) -> Any:
        if rank == 1 and state.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return learn(state, *arguments)

    loop.train_step = signalled  # type: ignore[assignment]
    return []


def the_time_is_over_on_one(rank: int) -> list[str]:
    def late(state: TrainState, *arguments: Any) -> Any:
        if rank == 1 and state.step == 2:
            TimeLimit.is_over = property(lambda _: True)  # type: ignore[assignment]
        return learn(state, *arguments)

    loop.train_step = late  # type: ignore[assignment]
    return []


def an_exception_is_raised(rank: int) -> list[str]:
    def broken(crops: Crops, step: int, *place: int, **named: int) -> Audio:
        if rank == 1 and step == 3:
            raise CodecctlError("a shard is broken")
        return cut(crops, step, *place, **named)

    Crops.array = broken  # type: ignore[assignment, method-assign]
    return []


def the_first_dies(rank: int) -> list[str]:
    def deadly(crops: Crops, step: int, *place: int, **named: int) -> Audio:
        if rank == 0 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return cut(crops, step, *place, **named)

    Crops.array = deadly  # type: ignore[assignment, method-assign]
    return []


def nothing_happens(rank: int) -> list[str]:
    return []


SCENARIOS: list[Callable[[int], list[str]]] = [
    one_batch_is_not_finite, two_batches_are_not_finite, a_book_moves_alone, a_book_collapses, a_signal_comes,
    the_time_is_over_on_one, an_exception_is_raised, the_first_dies, nothing_happens,
]  # fmt: skip


def act(config: str, folder: Path, scenario: Callable[[int], list[str]], rank: int) -> None:
    """One rank of one scenario; FOLDER/NAME-RANK.json is what it saw."""
    seen: dict[str, Any] = {"skipped": [], "raised": None, "code": 0}
    changes = scenario(rank)
    watched, known = loop.train_step, Recorder()

    def watch(state: TrainState, *arguments: Any) -> Any:
        result = watched(state, *arguments)
        seen["skipped"] += [state.step] if result.skipped else []
        seen["books"], seen["step"] = launch._digest(state), state.step
        return result

    loop.train_step = watch  # type: ignore[assignment]
    start = time.monotonic()
    try:
        train(load_config(config, overrides=changes), folder / scenario.__name__, CPU, known)
    except CodecctlError as error:
        seen |= {"raised": type(error).__name__, "message": str(error), "code": error.exit_code}
    seen |= {"warnings": known.warnings, "seconds": time.monotonic() - start}
    (folder / f"{scenario.__name__}-{rank}.json").write_text(json.dumps(seen))


def main(config: str, folder: str) -> None:
    for scenario in SCENARIOS:
        srun = scenario is nothing_happens
        for child in fork_ranks(partial(act, config, Path(folder), scenario), 2, srun=srun):
            os.waitpid(child, 0)
    run = Path(folder) / "a_signal_comes"  # of two ranks, at step 3
    for n_ranks, stop_step in ((1, 5), (2, 7)):
        for child in fork_ranks(partial(resume_to, run, n_ranks, stop_step), n_ranks):
            assert os.waitpid(child, 0)[1] == 0


def resume_to(run: Path, n_ranks: int, stop_step: int, rank: int) -> None:
    """FOLDER/restored-N_RANKS.json is the table."""

    class Table(TrainingCallbacks):
        def restored(self, what: Restored) -> None:
            (run.parent / f"restored-{n_ranks}.json").write_text(json.dumps(describe_restored(what)))

    resume(run, CPU, Table(), stop_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
