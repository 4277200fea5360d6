"""`codecctl resume`: continue a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.options import DeviceOption, DevicesOption, MaxMinutesOption, NodesOption, SetOption, StepsOption


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, e.g. runs/smoke, or its last.pt.")],
    steps: StepsOption = None,
    max_minutes: MaxMinutesOption = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared folder, if it was moved.", show_default="as before")
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    n_devices: DevicesOption = 1,
    n_nodes: NodesOption = 1,
) -> None:
    """Continue a run from its last checkpoint as if it had never stopped.

    The checkpoint's config is used; edits of config.yaml are listed, and the file is written anew. --set changes keys
    that may change within a run, such as train.learning_rate and train.n_steps.

    Example: codecctl resume runs/smoke --steps 2000
    """
    started = time.monotonic()
    from codecctl.cli.watch import TrainingDisplay
    from codecctl.inference.device import find_device
    from codecctl.train import loop

    with TrainingDisplay() as display:
        loop.resume(
            run,
            find_device(device),
            display,
            steps,
            str(data) if data else None,
            overrides=overrides or (),
            n_devices=n_devices,
            n_nodes=n_nodes,
            max_minutes=max_minutes,
            started=started,
        )
