"""`codecctl export`: a checkpoint as a small file for use alone, or as a folder for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.console import say, size
from codecctl.cli.pipes import naming
from codecctl.errors import UsageError
from codecctl.inference.find import find_checkpoint


def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The model: a run's folder, or e.g. its best.pt.")],
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="With --to: the new folder.")] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="hf|onnx|web",
            help="A folder for other programs. hf: transformers; onnx: onnxruntime; web: a page for browsers.",
            show_default="one file",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.safetensors", help="Without --to: the new file.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="int8|float32", help="Of the file; float32 loses nothing.", show_default="int8"),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="TGZ|DIR", help="With --to web: npm's onnxruntime-web.", show_default="fetched by npm"),
    ] = None,
) -> None:
    """Write a codec without its training state, a fraction of a checkpoint's size, and its model card beside it.

    The file is used like any checkpoint. int8 rounds the weights, so it gets a fingerprint of its own.

    Example: codecctl export runs/production -o codec.safetensors
    """
    if runtime is not None and to != "web":
        raise UsageError("--runtime is for --to web")
    if to is None:
        if output is None or folder is not None:
            raise UsageError("name the file, -o OUT.safetensors, or what to write into a folder, --to hf DIR")
        _write_file(checkpoint, output, precision or "int8")
    else:
        from codecctl.export.formats import FORMATS

        if to not in FORMATS:
            raise UsageError(f"--to {to}: expected {', '.join(FORMATS)}")
        if folder is None or output is not None or precision is not None:
            raise UsageError(f"--to {to} takes the new folder, --to {to} DIR, and neither --output nor --precision")
        _write_folder(checkpoint, folder, to, runtime)


def _write_file(checkpoint: str, output: Path, precision: str) -> None:
    from codecctl.inference.card import card_lines, card_path, write_card
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.load import export_codec

    source = Checkpoint.read(find_checkpoint(checkpoint))
    card_path(output)  # before anything is written, as what follows: it reads files of the run
    lines = card_lines(output.stem, source)
    with naming(output):
        exported = export_codec(source, output, precision)
        card = write_card(exported, source, lines)
    before, after = (size(path.stat().st_size) for path in (source.path, output))
    say(f"{source.path} -> {output}: {before} -> {after}, fingerprint {exported.fingerprint}; card: {card}")


def _write_folder(checkpoint: str, folder: Path, to: str, runtime: Path | None) -> None:
    from codecctl.export.formats import FORMATS
    from codecctl.inference.checkpoint import Checkpoint

    source = Checkpoint.read(find_checkpoint(checkpoint))
    sizes = FORMATS[to](source, folder, **({"runtime": runtime} if runtime else {}))
    say(f"{source.path} -> {folder}: {len(sizes)} files, {size(sum(sizes.values()))}, fingerprint {source.fingerprint}")
    if to == "onnx":
        from codecctl.export.graphs import OPSET

        files = ", ".join(f"{name} {size(n_bytes)}" for name, n_bytes in sizes.items())
        say(f"opset {OPSET}: {files}")
