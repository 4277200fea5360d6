"""`codecctl export`: a checkpoint as a small file for use alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from codecctl.cli.checkpoint import find_checkpoint
from codecctl.cli.options import say


def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The model, e.g. runs/NAME/best.pt.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.safetensors", help="Where to.")],
    precision: Annotated[
        Literal["int8", "float32"], typer.Option(help="How matrices are stored; float32 loses nothing.")
    ] = "int8",
) -> None:
    """Write a codec without its training state, a fraction of a checkpoint's size, and its model card beside it.

    It is used like any checkpoint. int8 rounds the weights, so the file gets a fingerprint of its own.
    """
    from rich.markup import escape

    from codecctl.inference.card import card_path, write_card
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.load import export_codec

    source = Checkpoint.read(find_checkpoint(checkpoint))
    card_path(output)  # before anything is written
    exported = export_codec(source, output, precision)
    card = write_card(exported, source)
    before, after = source.path.stat().st_size / 1e6, output.stat().st_size / 1e6
    say(
        escape(
            f"{source.path} -> {output}: {before:.1f} MB -> {after:.1f} MB, fingerprint {exported.fingerprint}; "
            f"card: {card}"
        )
    )
