"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME|PATH|HUB",
        help=r"The model: a shipped one's name, a file such as runs/NAME/last.pt, a run's folder, or owner/name\[@REV] "
        "on the Hugging Face hub.",
        show_default="starter",
    ),
]
ConfigOption = Annotated[
    str, typer.Option("--config", "-c", metavar="NAME|PATH", help="A shipped config's name or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change a key of the config, e.g. train.batch_size=8; repeatable."),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where to compute; auto is a card if there is one."),
]
OutputDirOption = Annotated[
    Path | None, typer.Option("--out-dir", metavar="DIR", help="Where to, for several inputs or a folder.")
]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", min=1, metavar="N", help="Stop after step N.", show_default="train.n_steps of the config"),
]
MaxMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        metavar="M",
        help="Finish the step, save and exit so many minutes (above 0) after the start of this command.",
        show_default="train.max_minutes of the config",
    ),
]
DevicesOption = Annotated[int, typer.Option("--devices", min=1, metavar="N", help="Cards (or processes) a machine.")]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Machines.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME|PATH", help="A card's profile, e.g. rtx4090.", show_default="none"),
]
