"""One frame of a stream each way, on one thread: by arithmetic, and beside the convolutions of torch."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import transformers
from torch import Tensor

from codecctl.config.load import load_config
from codecctl.inference.load import Codec
from codecctl.inference.precision import set_precision
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.inference.timing import speech
from codecctl.model import causal

pytestmark = pytest.mark.bench
Result = TypeVar("Result")

_FRAMES = 200
_TEN_MINUTES = 30_000  # frames
_ROUNDS = 6


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
    for case, codec in codecs.items():
        streams[f"{case}, traced"] = codec.stream_encoder(traced=True), codec.stream_decoder(traced=True)
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in streams}
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
    assert medians["int8, traced"] < medians["int8"]


def test_ten_minutes_of_a_call(record: Callable[[str], None]) -> None:
    codec = new_codec("production")
    set_precision(codec, "int8")
    encoder, decoder = codec.stream_encoder(traced=True), codec.stream_decoder(traced=True)
    audio = torch.randn(1, 1, codec.hop_length) / 10
    decoder.push(encoder.push(audio.repeat(1, 1, 300)))  # more than the look-back
    before = memory_mb()
    wall = statistics.quantiles([timed(encoder, decoder, audio)[0] for _ in range(_TEN_MINUTES)], n=100)
    record(
        f"production, int8, traced: p50 {wall[49]:.1f}, p95 {wall[94]:.1f}, p99 {wall[98]:.1f} ms; memory "
        f"{before:.0f} MB before, {memory_mb():.0f} MB after"
    )


def test_whole_signals_beside_mimi(record: Callable[[str], None]) -> None:
    """Ten seconds, by processor time; all take turns."""
    torch.set_num_threads(1)
    ours = {precision: new_codec("production") for precision in ("float32", "int8")}
    for precision, codec in ours.items():
        set_precision(codec, precision)
    mimi = transformers.MimiModel(transformers.MimiConfig(num_quantizers=8)).eval()
    audio, at_24_khz = speech(16_000, 320, 10), torch.randn(1, 1, 240_000) / 10
    times: dict[str, list[float]] = {}

    @torch.inference_mode()
    def run(name: str, work: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = work()
        times.setdefault(name, []).append((time.process_time() - start) / 10)
        return result

    for _ in range(_ROUNDS):
        for precision, codec in ours.items():
            codes = run(f"{precision}, encode", lambda codec=codec: codec.encode(audio))
            run(f"{precision}, decode", lambda codec=codec, codes=codes: codec.decode(codes))
        codes = run("Mimi, encode", lambda: mimi.encode(at_24_khz, num_quantizers=8).audio_codes)
        run("Mimi, decode", lambda codes=codes: mimi.decode(codes))
    record("; ".join(f"{name} {statistics.median(each[1:]):.3f} of real time" for name, each in times.items()))


def memory_mb() -> float:
    """That this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def timed(encoder: StreamEncoder, decoder: StreamDecoder, audio: Tensor) -> tuple[float, float]:
    """Milliseconds of the clock and of the processor, both ways."""
    clock, processor = time.perf_counter(), time.process_time()
    decoder.push(encoder.push(audio))
    return 1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor)
