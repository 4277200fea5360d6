"""What a frame of a stream takes by kernel, and what reading its weights and caches alone takes on this machine.

    python -m tests.bench.profile_frame

One thread, processor time. Times of kernels are medians over the frames, call by call, and contain what the profiler
adds to each call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from codecctl.inference.precision import BFloat16Matrix, Int8Matrix, set_precision
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.model.causal import CausalConv1d, CausalConvTranspose1d
from codecctl.model.codebook import Codebook
from codecctl.model.codec import Codec
from tests.bench.test_bench_stream import new_codec

_FRAMES, _WARM_UP = 100, 20
_MUCH = 2**26  # values, more than the caches of a processor hold
_OTHER = "other arithmetic"
_KERNELS = {
    "products with 8-bit integers": ("quantized::",),
    "products in float32": ("aten::addmm", "aten::mm", "mkldnn::"),
    "attention and candidates": ("aten::bmm", "aten::baddbmm"),
    "sines": ("aten::sin_",),
    "copies": ("aten::copy_", "aten::cat", "aten::scatter_", "aten::index", "aten::gather", "aten::roll"),
    "searches and sums": ("aten::abs", "aten::amax", "aten::_softmax", "aten::topk", "aten::sort", "aten::argmin"),
    _OTHER: (),
    "calls, views, new memory": (
        "forward", "aten::as_strided", "aten::transpose", "aten::mT", "aten::slice", "aten::select", "aten::view",
        "aten::unfold", "aten::permute", "aten::unsqueeze", "aten::expand", "aten::chunk", "aten::split",
        "aten::unbind", "aten::unflatten", "aten::flatten", "aten::reshape", "aten::_reshape_alias", "aten::squeeze",
        "aten::empty", "aten::matmul", "aten::linear", "aten::rms_norm", "aten::softmax", "aten::contiguous",
        "aten::clone", "aten::to", "aten::_to_copy", "aten::stack", "aten::t ",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="production", help="starter, or a config, with random weights")
    parser.add_argument("--precision", default="int8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = new_codec(args.model)
    set_precision(codec, args.precision)
    encoder, decoder = codec.stream_encoder(traced=True), codec.stream_decoder(traced=True)
    audio = torch.randn(1, 1, codec.hop_length) / 10
    codes = encoder.push(audio)
    sides: list[Callable[[], Tensor]] = [lambda: encoder.push(audio), lambda: decoder.push(codes)]
    columns = [_by_kernel(push) for push in sides]
    print("| ms of a frame | encode | decode |\n|---|---|---|")
    for kernel in _KERNELS:
        _print_row(kernel, [column[kernel] for column in columns])
    _print_row("all of these", [column.total() for column in columns])
    _print_row("without the profiler", [_median_ms(push) for push in sides])
    speed, read = _read_speed(), [_megabytes_read(codec, stream) for stream in (encoder, decoder)]
    _print_row("weights and caches, MB", read)
    _print_row(f"reading these at {speed:.0f} GB/s", [megabytes / speed for megabytes in read])


def _print_row(name: str, numbers: list[float]) -> None:
    print(f"| {name} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |", flush=True)


def _by_kernel(push: Callable[[], Tensor]) -> Counter[str]:
    """Milliseconds of a frame, by row of the table."""
    frames = []
    for t in range(_FRAMES + _WARM_UP):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            push()
        if t >= _WARM_UP:
            frames.append(sorted(profiler.events(), key=lambda call: (call.time_range.start, -call.time_range.end)))
    total: Counter[str] = Counter()
    for calls in zip(*frames, strict=True):  # the same call of each frame
        total[_kernel(calls[0])] += statistics.median(call.self_cpu_time_total for call in calls) / 1000
    return total


def _kernel(call: FunctionEvent) -> str:
    fits = (kernel for kernel, names in _KERNELS.items() if f"{call.name} ".startswith(names))
    return next(fits, _OTHER)


def _median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_FRAMES + _WARM_UP):
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[_WARM_UP:])


def _read_speed() -> float:
    """Gigabytes a second that one core reads from memory."""
    values = torch.ones(_MUCH)
    return 4 * _MUCH / 1e6 / _median_ms(values.sum)


def _megabytes_read(codec: Codec, stream: StreamEncoder | StreamDecoder) -> float:
    """Of weights, and of what the stream remembers, for one frame."""
    is_encoder = isinstance(stream, StreamEncoder)
    parts = [codec.encoder, codec.quantizer] if is_encoder else [codec.decoder]
    weights = sum(_bytes_of(module) for part in parts for module in part.modules())
    return (weights + sum(past.nbytes for past in stream._state.past.values())) / 1e6


def _bytes_of(module: nn.Module) -> int:
    """Of a matrix that a frame is multiplied by."""
    if isinstance(module, Int8Matrix):
        return torch.ops.quantized.linear_unpack(module._packed)[0].numel()  # type: ignore[no-any-return]
    if isinstance(module, BFloat16Matrix):
        return module._matrix.nbytes
    if isinstance(module, nn.Linear):
        return module.weight.nbytes
    if isinstance(module, (CausalConv1d, CausalConvTranspose1d)) and module.product is None:
        return module.matrix.nbytes
    if isinstance(module, Codebook) and module.product is None:
        return module.codewords.nbytes
    return 0


if __name__ == "__main__":
    main()
