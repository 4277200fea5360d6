"""`codecctl encode`: audio files to files of codes."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.batch import check_request, convert_all
from codecctl.cli.console import say
from codecctl.cli.corpus import (
    CORPUS_FORMATS,
    CardsOption,
    ExecutorOption,
    ShardOption,
    WorkersOption,
    encode_to_corpus,
    means_corpus,
)
from codecctl.cli.options import CheckpointOption, DeviceOption, OutputDirOption
from codecctl.cli.pipes import as_file, binary_stdout, check_inputs, naming_stdout
from codecctl.cli.stream import ChannelsOption, PrecisionOption, RateOption, StreamOption, encode_stream
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.find import find_checkpoint

if TYPE_CHECKING:
    from codecctl.inference.files import Encoded


def encode(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Audio, folders, prepared data, lists; - is stdin.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.npy|OUT.cctl", help="Where to.", show_default="stdout")
    ] = None,
    out_dir: OutputDirOption = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="npy|cctl|shards|webdataset|parquet",
            help="npy, cctl: a file for each input. The others: one corpus of codes in --out-dir.",
            show_default="shards for a prepared folder, a downloaded corpus, a JSONL list or Parquet, else npy",
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Take what is there of audio that is cut off.")] = False,
    n_quantizers: Annotated[
        int | None,
        typer.Option(
            "--n-quantizers",
            metavar="K",
            help="Use the first K codebooks only, 1 to the model's number: a lower rate.",
            show_default="all",
        ),
    ] = None,
    stream: StreamOption = False,
    rate: RateOption = None,
    channels: ChannelsOption = None,
    precision: PrecisionOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    n_workers: WorkersOption = None,
    n_devices: CardsOption = 1,
    shard: ShardOption = "1/1",
    executor: ExecutorOption = "processes",
) -> None:
    """Encode audio of any rate, channels and length to codes: .npy (uint16 K x T) or packed, checked .cctl.

    One input goes to -o or to stdout; several, or a folder, go to --out-dir. A prepared folder, a downloaded corpus, a
    JSONL list or Parquet becomes a corpus of codes in --out-dir, as does anything with --format shards, webdataset or
    parquet. The same command resumes it, and adds recordings.

    Example: codecctl encode speech.wav -o speech.cctl
    """
    is_divided = (n_workers, n_devices, shard, executor) != (None, 1, "1/1", "processes")
    if stream and (output or out_dir or form or partial or is_divided):
        others = "-o, --out-dir, --format, --partial, --workers, --devices, --shard and --executor"
        raise UsageError(f"--stream writes packed frames to stdout; leave out {others}")
    if (rate or channels or precision) and not stream:
        raise UsageError("--rate, --channels and --precision are for stdin, frame by frame; add --stream")
    if channels and not rate:
        raise UsageError("--channels is of raw samples; add --rate HZ")
    if stream:
        return encode_stream(inputs, rate, channels, precision, n_quantizers, checkpoint, device)
    check_inputs(inputs)
    if out_dir and form is None and output is None and means_corpus(inputs):
        form = "shards"
    if form in CORPUS_FORMATS:
        return encode_to_corpus(
            inputs,
            out_dir if output is None else None,
            form,
            checkpoint,
            n_quantizers=n_quantizers,
            partial=partial,
            n_workers=n_workers,
            n_devices=n_devices,
            executor=executor,
            shard=shard,
            device=device,
        )
    if is_divided:
        raise UsageError("--workers, --devices, --shard and --executor are for a corpus; add --format shards")

    from codecctl.inference.containers import CONTAINERS

    suffix = f".{form or 'npy'}"
    check_request(inputs, output, out_dir, form, [*CONTAINERS, *(f".{name}" for name in CORPUS_FORMATS)])
    stdout = None if output or out_dir else binary_stdout(f"codecctl encode {inputs[0]} -o codes{suffix}")
    model = find_checkpoint(checkpoint)
    pairs = _plan(inputs, out_dir, suffix) if out_dir else []

    from codecctl.audio.opening import CutOffError
    from codecctl.inference.files import encode_file
    from codecctl.inference.load import Codec

    codec = Codec.load(model, device)
    codec.check_n_quantizers(n_quantizers)

    def convert(source: Path, target: Path) -> None:
        with as_file(source) as (path, name):
            try:
                encoded = encode_file(codec, path, target, n_quantizers=n_quantizers, name=name, partial=partial)
            except CutOffError as error:
                raise CodecctlError(str(error) if partial else f"{error}; --partial takes what is there") from None
        _report(name, target, "stdout" if stdout else str(target), encoded)

    if out_dir:
        convert_all(pairs, out_dir, convert)
    elif output:
        convert(inputs[0], output)
    elif stdout:
        with tempfile.TemporaryDirectory(prefix="codecctl-") as folder:
            target = Path(folder, f"codes{suffix}")
            convert(inputs[0], target)
            with target.open("rb") as codes, naming_stdout():
                shutil.copyfileobj(codes, stdout)
                stdout.flush()


def _plan(inputs: list[Path], out_dir: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Each audio file with its output. Says what was left out of folders."""
    from codecctl.audio.files import find_audio, left_out
    from codecctl.inference.outputs import plan_outputs

    skipped: Counter[str] = Counter()
    pairs = plan_outputs(inputs, out_dir, suffix, lambda folder: find_audio([folder], skipped), "audio files")
    if skipped:
        say(left_out(skipped))
    return pairs


def _report(name: str, output: Path, output_name: str, encoded: Encoded) -> None:
    """Two lines on stderr: what was done to the audio, if anything, and the result."""
    source, changes = encoded.source, []
    if source.sample_rate != encoded.sample_rate:
        changes.append(f"resampled from {source.sample_rate} to {encoded.sample_rate} Hz")
    if source.channel is not None:
        changes.append(f"taken from channel {source.channel + 1} of {source.n_channels}, which cancel when mixed down")
    elif source.n_channels > 1:
        changes.append(f"mixed down from {source.n_channels} channels")
    if changes:
        say(f"{name}: {' and '.join(changes)}")
    file_bitrate_kbps = 8 * output.stat().st_size / encoded.seconds / 1000
    rate = f"{file_bitrate_kbps:.2f} kbps with header and checks"
    if output.suffix.lower() == ".npy":
        rate = f"{encoded.bitrate_kbps:.2f} kbps of codes; .npy spends 16 bits on each: {file_bitrate_kbps:.2f} kbps"
    say(
        f"{name} -> {output_name}: {encoded.seconds:.2f} s, "
        f"{encoded.n_frames} frames x {encoded.n_quantizers} codebooks, {rate}, "
        f"real_time_factor {encoded.real_time_factor:.3f}"
    )
