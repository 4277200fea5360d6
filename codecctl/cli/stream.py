"""`--stream` of `codecctl encode` and `decode`: from stdin to stdout, each frame as soon as it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.console import say
from codecctl.cli.pipes import binary_stdin, binary_stdout, naming_stdout
from codecctl.inference.find import find_checkpoint

if TYPE_CHECKING:
    from codecctl.inference.live import Live
    from codecctl.inference.load import Codec

StreamOption = Annotated[
    bool, typer.Option("--stream", help="From stdin (-) to stdout, each frame as soon as it is complete.")
]
RateOption = Annotated[
    int | None,
    typer.Option("--rate", min=4000, max=768_000, metavar="HZ", help="With --stream: stdin is raw 16-bit samples."),
]
ChannelsOption = Annotated[
    int | None,
    typer.Option("--channels", min=1, max=64, metavar="N", help="With --rate: of the raw samples.", show_default="1"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|float32|bfloat16|int8",
        help="With --stream: arithmetic of the large matrices on the CPU.",
        show_default="auto",
    ),
]


def encode_stream(
    inputs: list[Path],
    rate: int | None,
    n_channels: int | None,
    precision: str | None,
    n_quantizers: int | None,
    checkpoint: str | None,
    device: str,
) -> None:
    """Print at the end what went through."""

    def run(codec: Codec, live: Live) -> None:
        from codecctl.inference.live import encode_live

        codec.check_n_quantizers(n_quantizers)
        encode_live(codec, source, sink, live, rate=rate, n_channels=n_channels or 1, n_quantizers=n_quantizers)

    source, sink = binary_stdin(inputs), binary_stdout("... | codecctl encode - --stream > stream.cctl")
    _run(run, "samples", checkpoint, device, precision)


def decode_stream(inputs: list[Path], precision: str | None, checkpoint: str | None, device: str) -> None:
    """Print at the end what went through."""

    def run(codec: Codec, live: Live) -> None:
        from codecctl.inference.live import decode_live

        decode_live(codec, source, sink, live)

    source, sink = binary_stdin(inputs), binary_stdout("... | codecctl decode - --stream > out.wav")
    _run(run, "frames", checkpoint, device, precision)


def _run(
    run: Callable[[Codec, Live], None], what: str, checkpoint: str | None, device: str, precision: str | None
) -> None:
    model = find_checkpoint(checkpoint)

    import torch

    from codecctl.inference.live import Live
    from codecctl.inference.load import Codec
    from codecctl.inference.precision import set_precision

    torch.set_num_threads(1)  # for a single frame more cost more than they give
    codec, live = Codec.load(model, device), Live()
    chosen = set_precision(codec, precision or "auto")
    try:
        with naming_stdout():
            run(codec, live)
    finally:
        if live.is_open:
            lost = f", {live.n_lost} frames lost" if live.n_lost else ""
            late = f", {live.n_late} frames late or repeated" if live.n_late else ""
            cut = "" if live.is_complete else ", cut off: the end mark is missing"
            seconds = live.n_samples / codec.sample_rate
            say(
                f"stdin -> stdout: {seconds:.2f} s, {live.n_frames} frames{lost}{late}{cut}; "
                f"{chosen}, out {live.median_delay_ms:.1f} ms after the {what} (median)"
            )
