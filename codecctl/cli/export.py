"""`codecctl export`: a checkpoint as a small file for use alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from codecctl.cli.console import say, size
from codecctl.inference.find import find_checkpoint


def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The model: a run's folder, or e.g. its best.pt.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.safetensors", help="Where to.")],
    precision: Annotated[
        Literal["int8", "float32"], typer.Option(help="How matrices are stored; float32 loses nothing.")
    ] = "int8",
) -> None:
    """Write a codec without its training state, a fraction of a checkpoint's size, and its model card beside it.

    The file is used like any checkpoint. int8 rounds the weights, so it gets a fingerprint of its own.

    Example: codecctl export runs/production -o codec.safetensors
    """
    from codecctl.inference.card import card_path, write_card
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.load import export_codec

    source = Checkpoint.read(find_checkpoint(checkpoint))
    card_path(output)  # before anything is written
    exported = export_codec(source, output, precision)
    card = write_card(exported, source)
    before, after = (size(path.stat().st_size) for path in (source.path, output))
    say(f"{source.path} -> {output}: {before} -> {after}, fingerprint {exported.fingerprint}; card: {card}")
