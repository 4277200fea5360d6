"""`codecctl info`: what a file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.checkpoint import find_checkpoint
from codecctl.cli.pipes import as_file


def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A checkpoint, codes (.cctl, .npy) or audio; - is stdin. [default: the shipped model]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a checkpoint, a file of codes or an audio file is."""
    from codecctl.inference.describe import describe

    with as_file(file or find_checkpoint(None)) as (path, name):
        facts = describe(path, name=name)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:{width}}  {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
