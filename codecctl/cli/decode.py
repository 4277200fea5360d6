"""`codecctl decode`: a file of codes to audio."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.checkpoint import CheckpointOption, find_checkpoint
from codecctl.cli.options import DeviceOption, say
from codecctl.cli.pipes import as_file, binary_stdout, naming_stdout
from codecctl.cli.stream import PrecisionOption, StreamOption, decode_stream
from codecctl.errors import UsageError


def decode(
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="A .npy or packed .cctl file; - is stdin.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.wav|OUT.flac", help="Where to; else WAV on stdout.")
    ] = None,
    stream: StreamOption = False,
    precision: PrecisionOption = "auto",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Decode codes to audio, WAV or FLAC."""
    if stream and output:
        raise UsageError("--stream writes a WAV to stdout; leave out -o")
    if stream:
        return decode_stream([codes], precision, checkpoint, device)
    target = output or binary_stdout(f"codecctl decode {codes} -o out.wav")
    model = find_checkpoint(checkpoint)

    from rich.markup import escape

    from codecctl.inference.files import decode_file
    from codecctl.inference.load import Codec

    with as_file(codes) as (path, name), contextlib.nullcontext() if output else naming_stdout():
        decoded = decode_file(Codec.load(model, device), path, target, name=name)
    say(
        escape(
            f"{name} -> {output or 'stdout'}: {decoded.seconds:.2f} s at {decoded.sample_rate} Hz "
            f"from {decoded.n_quantizers} codebooks, real_time_factor {decoded.real_time_factor:.3f}"
        )
    )
