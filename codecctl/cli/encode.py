"""`codecctl encode`: audio files to files of codes."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.checkpoint import CheckpointOption, find_checkpoint
from codecctl.cli.options import DeviceOption, say
from codecctl.cli.pipes import as_file, binary_stdout, naming_stdout
from codecctl.cli.stream import ChannelsOption, PrecisionOption, RateOption, StreamOption, encode_stream
from codecctl.errors import CodecctlError, UsageError

if TYPE_CHECKING:
    from codecctl.inference.files import Encoded
    from codecctl.inference.load import Codec


_MOST_KINDS = 8  # suffixes that are named


def encode(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN", help="Audio files or folders; - is stdin.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT.npy|OUT.cctl", help="Where to.")] = None,
    out_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to, for several inputs or a folder.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="npy|cctl", help="For --out-dir and stdout; npy if not given.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Take what is there of audio that is cut off.")] = False,
    n_quantizers: Annotated[int | None, typer.Option(metavar="K", help="Use the first K codebooks only.")] = None,
    stream: StreamOption = False,
    rate: RateOption = None,
    channels: ChannelsOption = 1,
    precision: PrecisionOption = "auto",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Encode audio of any rate, channels and length to codes: .npy (uint16 [K, T]) or packed .cctl.

    One input goes to -o or to stdout; several, or a folder, go to --out-dir.
    """
    if stream and (output or out_dir or form or partial):
        raise UsageError("--stream writes packed frames to stdout; leave out -o, --out-dir, --format and --partial")
    if rate and not stream:
        raise UsageError("--rate is of raw samples on stdin; add --stream")
    if stream:
        return encode_stream(inputs, rate, channels, precision, n_quantizers, checkpoint, device)
    suffix = f".{form or 'npy'}"
    _check_request(inputs, output, out_dir, form)
    stdout = None if output or out_dir else binary_stdout(f"codecctl encode {inputs[0]} -o codes{suffix}")
    model = find_checkpoint(checkpoint)

    from codecctl.inference.load import Codec

    if out_dir:
        _encode_many(Codec.load(model, device), inputs, out_dir, suffix, n_quantizers, partial)
        return
    with as_file(inputs[0]) as (path, name), tempfile.TemporaryDirectory(prefix="codecctl-") as folder:
        target = output or Path(folder, f"codes{suffix}")
        _encode_one(Codec.load(model, device), path, target, n_quantizers, partial, name, str(output or "stdout"))
        if stdout:
            with target.open("rb") as codes, naming_stdout():
                shutil.copyfileobj(codes, stdout)
                stdout.flush()


def _check_request(inputs: list[Path], output: Path | None, out_dir: Path | None, form: str | None) -> None:
    from codecctl.inference.containers import CONTAINERS

    if form and f".{form}" not in CONTAINERS:
        raise UsageError(f"--format {form}: expected {' or '.join(suffix[1:] for suffix in CONTAINERS)}")
    if output and (out_dir or form):
        raise UsageError("-o names the file and, by its suffix, the format; leave out --out-dir and --format")
    if not out_dir and (len(inputs) > 1 or inputs[0].is_dir()):
        raise UsageError("several inputs or a folder need --out-dir DIR")
    if out_dir and Path("-") in inputs:
        raise UsageError("what comes from stdin has no name in --out-dir; use -o")


def _encode_one(
    codec: Codec, path: Path, output: Path, n_quantizers: int | None, partial: bool, name: str, output_name: str
) -> None:
    from codecctl.audio.opening import CutOffError
    from codecctl.inference.files import encode_file

    try:
        encoded = encode_file(codec, path, output, n_quantizers=n_quantizers, name=name, partial=partial)
    except CutOffError as error:
        raise CodecctlError(_with_advice(error, partial)) from None
    _report(name, output, output_name, encoded)


def _encode_many(
    codec: Codec, inputs: list[Path], out_dir: Path, suffix: str, n_quantizers: int | None, partial: bool
) -> None:
    from codecctl.inference.files import encode_files, plan_outputs

    skipped: Counter[str] = Counter()
    pairs = plan_outputs(inputs, out_dir, suffix, skipped)
    if skipped:
        kinds = ", ".join(f"{n} {kind or 'without a suffix'}" for kind, n in skipped.most_common(_MOST_KINDS))
        more = ", ..." if len(skipped) > _MOST_KINDS else ""
        say(_plain(f"left out, no audio by their suffix: {kinds}{more}"))
    n_failed = 0
    for path, output, result in encode_files(codec, pairs, n_quantizers=n_quantizers, partial=partial):
        if isinstance(result, CodecctlError):
            n_failed += 1
            say(f"[bold red]failed:[/] {_plain(_with_advice(result, partial))}")
        else:
            _report(str(path), output, str(output), result)
    if n_failed:
        raise CodecctlError(f"{n_failed} of {len(pairs)} files failed; the others are in {out_dir}")


def _with_advice(error: CodecctlError, partial: bool) -> str:
    from codecctl.audio.opening import CutOffError

    return f"{error}; --partial takes what is there" if isinstance(error, CutOffError) and not partial else str(error)


def _report(name: str, output: Path, output_name: str, encoded: Encoded) -> None:
    """Two lines on stderr: what was done to the audio, if anything, and what came out."""
    source, changes = encoded.source, []
    if source.sample_rate != encoded.sample_rate:
        changes.append(f"resampled from {source.sample_rate} to {encoded.sample_rate} Hz")
    if source.channel is not None:
        changes.append(f"taken from channel {source.channel + 1} of {source.n_channels}, which cancel when mixed down")
    elif source.n_channels > 1:
        changes.append(f"mixed down from {source.n_channels} channels")
    if changes:
        say(_plain(f"{name}: {' and '.join(changes)}"))
    file_bitrate_kbps = 8 * output.stat().st_size / encoded.seconds / 1000
    rate = f"{file_bitrate_kbps:.2f} kbps with header and checks"
    if output.suffix.lower() == ".npy":
        rate = f"{encoded.bitrate_kbps:.2f} kbps of codes; .npy spends 16 bits on each: {file_bitrate_kbps:.2f} kbps"
    say(
        _plain(
            f"{name} -> {output_name}: {encoded.seconds:.2f} s, "
            f"{encoded.n_frames} frames x {encoded.n_quantizers} codebooks, {rate}, "
            f"real_time_factor {encoded.real_time_factor:.3f}"
        )
    )


def _plain(text: str) -> str:
    """Text that rich must print as it stands."""
    from rich.markup import escape

    return escape(text)
