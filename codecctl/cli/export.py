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
        Literal["int8", "float16", "float32"], typer.Option(help="How matrices are kept; reading gives float32.")
    ] = "int8",
) -> None:
    """Write a codec without its training state, a fraction of a checkpoint's size, and its model card beside it.

    It is used like any checkpoint. int8 and float16 round the weights, so its codes get a fingerprint of its own.
    """
    from rich.markup import escape

    from codecctl.inference.card import write_card
    from codecctl.inference.load import Codec, export_codec, read_checkpoint, read_config

    source = find_checkpoint(checkpoint)
    export_codec(source, output, precision)
    card = write_card(output, read_config(read_checkpoint(source), source).data.path)
    before, after = source.stat().st_size / 1e6, output.stat().st_size / 1e6
    fingerprint = Codec.load(output, "cpu").fingerprint
    say(escape(f"{source} -> {output}: {before:.1f} MB -> {after:.1f} MB, fingerprint {fingerprint}; card: {card}"))
