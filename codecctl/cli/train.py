"""`codecctl train`: from prepared speech to a codec."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.console import show, show_facts
from codecctl.cli.options import (
    ConfigOption,
    DeviceOption,
    DevicesOption,
    GpuOption,
    MaxMinutesOption,
    NodesOption,
    SetOption,
    StepsOption,
)
from codecctl.inference.find import RUNS, find_checkpoint

if TYPE_CHECKING:
    import torch

    from codecctl.config.schema import Config


def train(
    config: ConfigOption = "production",
    gpu: GpuOption = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that prepare wrote.", show_default="data.path of the config"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's new folder.", show_default="runs/ and the config's name"),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CKPT",
            help="Start with the weights of a model: a shipped one's name, a file, or a run's folder.",
            show_default="new weights",
        ),
    ] = None,
    steps: StepsOption = None,
    max_minutes: MaxMinutesOption = None,
    device: DeviceOption = "auto",
    n_devices: DevicesOption = 1,
    n_nodes: NodesOption = 1,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the run's time, memory, disk and cost, without card or data; stop.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each loss and its gradient on the first batch; stop.")
    ] = False,
) -> None:
    """Train a codec on prepared speech. Ctrl-C finishes the step and saves; `codecctl resume` goes on.

    Example: codecctl train --config smoke --data data/prepared --steps 500
    """
    started = time.monotonic()
    from codecctl.config.load import load_config, with_data

    settings = load_config(config, gpu=gpu, overrides=overrides or ())
    settings = with_data(settings, data) if data else settings
    if dry_run:
        _print_plan(settings, steps, n_devices * n_nodes)
        return
    from codecctl.cli.watch import TrainingDisplay
    from codecctl.train.device import training_device
    from codecctl.train.loop import train as start

    where = training_device(device, settings)
    weights = find_checkpoint(start_from) if start_from else None
    if explain:
        _print_losses(settings, where, weights)
        return
    with TrainingDisplay() as display:
        start(
            settings,
            run or Path(RUNS, Path(config).stem),
            where,
            display,
            steps,
            start_from=weights,
            n_devices=n_devices,
            n_nodes=n_nodes,
            max_minutes=max_minutes,
            started=started,
        )


def _print_plan(settings: Config, steps: int | None, n_cards: int) -> None:
    gc.disable()  # of the libraries' many objects none is garbage: to look for it takes a third of the time
    try:
        from codecctl.cli.plan import describe
        from codecctl.train.plan import make_plan

        show_facts(describe(make_plan(settings, steps, n_cards)))
    finally:
        gc.freeze()
        gc.enable()


def _print_losses(settings: Config, device: torch.device, weights: Path | None) -> None:
    from codecctl.train.explain import explain

    show("loss            value    weight  weighted   share  gradient at audio  at latents")
    for loss in explain(settings, device, weights):
        show(
            f"{loss.name:11} {loss.value:9.4g} {loss.weight:9.4g} {loss.weighted:9.4g} {loss.share:7.1%} "
            f"{loss.gradient_at_audio:18.3g} {loss.gradient_at_latents:11.3g}"
        )
