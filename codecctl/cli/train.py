"""`codecctl train`: from prepared speech to a codec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.options import ConfigOption, DeviceOption, DevicesOption, NodesOption, SetOption, StepsOption


def train(
    config: ConfigOption = "production",
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME|PATH", help="A card's profile, e.g. rtx4090."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="The prepared folder; else data.path of the config.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="The run's folder; else runs/ and the config's name.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", metavar="CKPT", help="Start with the weights of this checkpoint.")
    ] = None,
    steps: StepsOption = None,
    device: DeviceOption = "auto",
    n_devices: DevicesOption = 1,
    n_nodes: NodesOption = 1,
    overrides: SetOption = None,
) -> None:
    """Train a codec. Ctrl-C finishes the step and saves; `codecctl resume` goes on."""
    from codecctl.cli.watch import TrainingDisplay
    from codecctl.config import load_config
    from codecctl.train.device import training_device
    from codecctl.train.loop import train as start

    changes = [*(overrides or ()), *([f"data.path={data}"] if data else ())]
    settings = load_config(config, gpu=gpu, overrides=changes)
    where = training_device(device, settings)
    with TrainingDisplay() as display:
        start(
            settings,
            run or Path("runs") / Path(config).stem,
            where,
            display,
            steps,
            start_from=start_from,
            n_devices=n_devices,
            n_nodes=n_nodes,
        )
