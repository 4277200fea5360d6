"""Push hours of speech through a stream of a codec and print the process's memory.

    python -m tests.bench.long_stream [--model starter] [--hours 10] [--frames-per-push 25]

The production codec has random weights. At the end the stream is compared with one that began a minute before: neither
may depend on what is longer ago, but for ties between two codewords and the phase of the noise that the starter adds.
"""

from __future__ import annotations

import argparse
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from codecctl.inference.precision import set_precision
from codecctl.inference.timing import speech
from tests.bench.test_bench_stream import memory_mb, new_codec

_LAST = 60 * 50  # frames that the second stream codes too
_COMPARED = 10 * 50  # of these, the last
_REPORTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.long_stream", description=__doc__)
    parser.add_argument("--model", default="production", choices=["production", "starter"])
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--frames-per-push", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = new_codec(options.model)
    set_precision(codec, "int8")
    per_push = options.frames_per_push
    n_pushes = round(options.hours * 3600 * 50 / per_push)
    every = max(1, n_pushes // _REPORTS)
    n_samples = per_push * codec.hop_length
    audio = speech(codec.sample_rate, n_samples, 60)
    blocks = [audio[..., start : start + n_samples] for start in range(0, audio.shape[-1], n_samples)]
    encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
    late_encoder, late_decoder = codec.stream_encoder(), codec.stream_decoder()
    n_equal, signal, difference = 0, 0.0, 0.0
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        decoding: Future[Tensor] | None = None
        for push in range(n_pushes):
            n_left = (n_pushes - push) * per_push
            block = blocks[push % len(blocks)]
            codes = encoder.push(block)
            if decoding is not None:
                decoding.result()
            decoding = thread.submit(decoder.push, codes)  # while the next block is encoded
            if n_left <= _LAST:
                late_codes = late_encoder.push(block)
                audio, late_audio = decoding.result(), late_decoder.push(codes)
                if n_left <= _COMPARED:
                    n_equal += int((codes == late_codes).sum())
                    signal += float(audio.square().sum())
                    difference += float((audio - late_audio).square().sum())
            if (push + 1) % every == 0:
                print(f"{(push + 1) * per_push / 180_000:5.2f} h: {memory_mb():.0f} MB", flush=True)
    n_compared = _COMPARED * codes.shape[1]
    print(f"beside a stream that began a minute before the end: {n_equal} of {n_compared} codes are equal, ", end="")
    print(f"the audio differs by {difference / signal:.1e} of its energy")


if __name__ == "__main__":
    main()
