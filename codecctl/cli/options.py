"""Options that several commands share, and the two consoles: results on stdout, everything else on stderr."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", metavar="NAME|PATH", help="A shipped config's name or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change a key of the config, e.g. train.batch_size=8; repeatable."),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute.")]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", min=1, metavar="N", help="Stop after step N; else at the schedule's end, train.n_steps."),
]

MaxMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        metavar="M",
        help="Finish the step, save and exit M minutes after the start of this command; loading counts too.",
    ),
]
DevicesOption = Annotated[int, typer.Option("--devices", min=1, metavar="N", help="Cards (or processes) a machine.")]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Machines.")]


def say(text: str) -> None:
    """A line on stderr; rich markup allowed."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text)
