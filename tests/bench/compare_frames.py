"""Time single frames of a stream with the code of several checkouts, which take turns.

    python -m tests.bench.compare_frames . OLDER_CHECKOUT

Each checkout runs in a process of its own with the fastest stream it has: in a graph, with `--precision`. One thread.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

_FULL = 300  # frames, more than the look-back
_AT_A_TIME = 50  # frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="+", help="folders that hold codecctl/")
    parser.add_argument("--model", default="production", help="starter, or a config, with random weights")
    parser.add_argument("--precision", default="int8", help="where a checkout has a choice")
    parser.add_argument("--rounds", type=int, default=20, help=f"of {_AT_A_TIME} frames each")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve(args.model, args.precision)
        return
    times = _compare(args.checkouts, args.model, args.precision, args.rounds)
    print(f"{args.model}, ms for a frame, medians of {args.rounds} x {_AT_A_TIME}\n")
    print("| checkout | encode | decode | both | of the processor |\n|---|---|---|---|---|")
    for checkout, frames in times.items():
        columns = [
            statistics.median(column) for column in zip(*((e, d, e + d, cpu) for e, d, cpu in frames), strict=True)
        ]
        print(f"| {checkout} | " + " | ".join(f"{ms:.2f}" for ms in columns) + " |")


def _compare(
    checkouts: list[Path], model: str, precision: str, n_rounds: int
) -> dict[str, list[tuple[float, float, float]]]:
    """Milliseconds to encode, to decode, and of the processor, for each frame of each checkout."""
    servers = {}
    for checkout in checkouts:
        command = [sys.executable, __file__, str(checkout), "--serve", "--model", model, "--precision", precision]
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        servers[str(checkout)] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    times: dict[str, list[tuple[float, float, float]]] = {checkout: [] for checkout in servers}
    for _ in range(n_rounds):
        for checkout, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            print(_AT_A_TIME, file=server.stdin, flush=True)
            times[checkout] += json.loads(server.stdout.readline())
    for server in servers.values():
        server.communicate()
    return times


def _serve(model: str, precision: str) -> None:
    """For each number on stdin, time so many frames."""
    from codecctl.config.load import load_config
    from codecctl.inference import stream
    from codecctl.inference.load import Codec

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if model == "starter":
        codec = Codec.load("starter", "cpu")
    else:
        codec = Codec(load_config(model).model)
        codec.fold_weight_norm()
        codec.eval().requires_grad_(False)
    traced = {}
    if "traced" in inspect.signature(stream.StreamEncoder.__init__).parameters:
        from codecctl.inference.precision import set_precision

        set_precision(codec, precision)
        traced = {"traced": True}
    encoder, decoder = stream.StreamEncoder(codec, **traced), stream.StreamDecoder(codec, **traced)
    audio = torch.randn(1, 1, codec.hop_length) / 10
    decoder.push(encoder.push(audio.repeat(1, 1, _FULL)))
    for line in sys.stdin:
        times = []
        for t in range(int(line) + 3):  # the first ones find nothing in the cache
            clock, processor = time.perf_counter(), time.process_time()
            codes = encoder.push(audio)
            encoded = time.perf_counter()
            decoder.push(codes)
            decoded = time.perf_counter()
            if t >= 3:
                cpu = time.process_time() - processor
                times.append([1000 * (encoded - clock), 1000 * (decoded - encoded), 1000 * cpu])
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
