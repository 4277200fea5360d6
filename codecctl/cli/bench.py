"""`codecctl bench`: how fast a model is on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from codecctl.cli.checkpoint import CheckpointOption, find_checkpoint
from codecctl.cli.options import DeviceOption


def bench(
    checkpoint: CheckpointOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Length of the speech.")] = 10.0,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads.")] = 1,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Time a model on bundled speech: whole files, and streams a frame at a time.

    Medians of several runs. real_time_factor: seconds of computing for a second of speech, below 1 is faster than life.
    """
    import torch

    from codecctl.inference.load import Codec
    from codecctl.inference.timing import measure

    torch.set_num_threads(threads)
    path = find_checkpoint(checkpoint)
    codec = Codec.load(path, device)
    times = measure(codec, seconds)
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(path), "fingerprint": codec.fingerprint, "threads": threads, **times}))
        return
    typer.echo(f"{path.name} ({codec.fingerprint}), {seconds:g} s of speech, {threads} thread(s), {device}")
    for name, value in times.items():
        typer.echo(f"{name:32}  {value:.4g}")
