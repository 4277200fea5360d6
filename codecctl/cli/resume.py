"""`codecctl resume`: go on with a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.options import DeviceOption, DevicesOption, MaxMinutesOption, NodesOption, StepsOption


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, e.g. runs/smoke, or its last.pt.")],
    steps: StepsOption = None,
    max_minutes: MaxMinutesOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="The prepared folder, if it lies elsewhere now.")
    ] = None,
    device: DeviceOption = "auto",
    n_devices: DevicesOption = 1,
    n_nodes: NodesOption = 1,
) -> None:
    """Go on from a run's last checkpoint as if it had never stopped."""
    started = time.monotonic()
    from codecctl.cli.watch import TrainingDisplay
    from codecctl.inference.load import find_device
    from codecctl.train.loop import resume as go_on

    with TrainingDisplay() as display:
        moved = str(data) if data else None
        go_on(
            run,
            find_device(device),
            display,
            steps,
            moved,
            n_devices=n_devices,
            n_nodes=n_nodes,
            max_minutes=max_minutes,
            started=started,
        )
