"""`codecctl decode`: files of codes to audio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from codecctl.cli.batch import check_request, convert_all
from codecctl.cli.console import say
from codecctl.cli.corpus import decode_from_corpus, holds_codes
from codecctl.cli.options import CheckpointOption, DeviceOption, OutputDirOption
from codecctl.cli.pipes import as_file, binary_stdout, check_inputs, naming_stdout
from codecctl.cli.stream import PrecisionOption, StreamOption, decode_stream
from codecctl.errors import UsageError
from codecctl.inference.find import find_checkpoint

_SUFFIXES = (".wav", ".flac")


def decode(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="CODES", help="Files of codes (.npy, .cctl) or folders; - is stdin.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.wav|OUT.flac", help="Where to.", show_default="WAV on stdout"),
    ] = None,
    out_dir: OutputDirOption = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="wav|flac", help="For --out-dir.", show_default="wav")
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Of a corpus: this utterance only; repeatable.", show_default="all"),
    ] = None,
    stream: StreamOption = False,
    precision: PrecisionOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Decode codes to audio: WAV or FLAC, 16 bits, mono, at the model's rate.

    One input goes to -o or to stdout; several, or a folder, go to --out-dir. A corpus of codes goes to DIR/ID.wav. The
    model must be the one that encoded.

    Example: codecctl decode speech.cctl -o speech.wav
    """
    if stream and (output or out_dir or form or ids):
        raise UsageError("--stream writes a WAV to stdout; leave out -o, --out-dir, --format and --id")
    if precision and not stream:
        raise UsageError("--precision is for stdin, frame by frame; add --stream")
    if stream:
        return decode_stream(inputs, precision, checkpoint, device)
    check_inputs(inputs)
    if any(map(holds_codes, inputs)) and output is None:
        return decode_from_corpus(inputs, out_dir, form, ids or (), checkpoint, device)
    if ids:
        raise UsageError("--id names utterances of a corpus of codes; give its folder")
    check_request(inputs, output, out_dir, form, _SUFFIXES)
    stdout = None if output or out_dir else binary_stdout(f"codecctl decode {inputs[0]} -o out.wav")
    model = find_checkpoint(checkpoint)

    from codecctl.inference.containers import find_codes
    from codecctl.inference.outputs import plan_outputs

    pairs = plan_outputs(inputs, out_dir, f".{form or 'wav'}", find_codes, "files of codes") if out_dir else []

    from codecctl.inference.files import decode_file
    from codecctl.inference.load import Codec

    codec = Codec.load(model, device)

    def convert(source: Path, target: Path | BinaryIO) -> None:
        with as_file(source) as (path, name):
            decoded = decode_file(codec, path, target, name=name)
        say(
            f"{name} -> {target if isinstance(target, Path) else 'stdout'}: {decoded.seconds:.2f} s at "
            f"{decoded.sample_rate} Hz from {decoded.n_quantizers} codebooks, "
            f"real_time_factor {decoded.real_time_factor:.3f}"
        )

    if out_dir:
        convert_all(pairs, out_dir, convert)
    elif output:
        convert(inputs[0], output)
    elif stdout:
        with naming_stdout():
            convert(inputs[0], stdout)
