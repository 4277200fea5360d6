"""One frame of a stream each way, on one thread: by arithmetic, and beside the convolutions of torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codecctl.config.load import load_config
from codecctl.inference.load import Codec
from codecctl.inference.precision import set_precision
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.model import causal

pytestmark = pytest.mark.bench

_FRAMES = 200


def new_codec(name: str) -> Codec:
    if name == "starter":
        return Codec.load(name, "cpu")
    torch.manual_seed(0)
    codec = Codec(load_config(name).model)
    codec.fold_weight_norm()
    return codec.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["production", "starter"])
def test_a_frame(name: str, record: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetics take turns frame by frame, so that other work on the machine slows all of them alike. Processor time
    stands beside wall-clock time: it contains no waiting for a core."""
    codecs = {precision: new_codec(name) for precision in ("float32", "int8")}
    for precision, codec in codecs.items():
        set_precision(codec, precision)
    cases = {"torch's convolutions": codecs["float32"], **codecs}
    streams = {case: (codec.stream_encoder(), codec.stream_decoder()) for case, codec in cases.items()}
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    audio = torch.randn(1, 1, codecs["float32"].hop_length) / 10
    for encoder, decoder in streams.values():
        decoder.push(encoder.push(audio.repeat(1, 1, 260)))  # more than the look-back
    largest = causal._LARGEST_PRODUCT
    for _ in range(_FRAMES):
        for case, (encoder, decoder) in streams.items():
            monkeypatch.setattr(causal, "_LARGEST_PRODUCT", 0 if case.startswith("torch") else largest)
            times[case].append(timed(encoder, decoder, audio))
    medians = {case: statistics.median(cpu for _, cpu in each) for case, each in times.items()}
    for case, each in times.items():
        wall, cpu = (statistics.quantiles(column, n=100) for column in zip(*each, strict=True))
        record(
            f"{name}, {case}: p50 {wall[49]:.1f}, p95 {wall[94]:.1f}, p99 {wall[98]:.1f} ms; "
            f"of the processor p50 {cpu[49]:.1f} ms"
        )
    if name == "production":
        assert medians["int8"] < medians["float32"] < medians["torch's convolutions"]


def timed(encoder: StreamEncoder, decoder: StreamDecoder, audio: Tensor) -> tuple[float, float]:
    """Milliseconds of the clock and of the processor, both ways."""
    clock, processor = time.perf_counter(), time.process_time()
    decoder.push(encoder.push(audio))
    return 1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)
