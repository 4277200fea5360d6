"""Score what a stream decoder makes of lost frames, and print a table.

    python -m tests.bench.score_losses LIST.tsv --root FOLDER --lyra FOLDER

The arguments are those of tests.bench.score_codecs. Every system loses the same frames: at random, or in bursts of
three on average (Gilbert 1960). `zero codes` and `last codes` decode these in place of what is lost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio.files import Audio
from codecctl.evaluate.rendering import Rendition
from codecctl.inference.load import Codec
from tests.bench.score_codecs import HOP, System, lyra, read_recordings, score_system

BURST = 3.0  # frames
PATTERNS = [(kind, percent) for kind in ("random", "bursty") for percent in (5, 10, 20)]


def lost_frames(kind: str, percent: int, n_frames: int, seed: int) -> NDArray[np.bool_]:
    """[T], of which the first arrive."""
    rate, random = percent / 100, np.random.default_rng(seed)
    end = 1 / BURST if kind == "bursty" else 1 - rate
    start = end * rate / (1 - rate)
    lost = np.zeros(n_frames, np.bool_)
    for t in range(3, n_frames):
        lost[t] = random.random() < (1 - end if lost[t - 1] else start)
    return lost


def concealed(codec: Codec, codes: Tensor, lost: Tensor) -> Tensor:
    decoder = codec.stream_decoder()
    return torch.cat([decoder.push(codes, lost), decoder.flush()], dim=-1)


def with_zero_codes(codec: Codec, codes: Tensor, lost: Tensor) -> Tensor:
    return codec.decode(codes.masked_fill(lost[:, None], 0))


def with_last_codes(codec: Codec, codes: Tensor, lost: Tensor) -> Tensor:
    last = torch.where(lost, 0, torch.arange(lost.shape[-1])).cummax(dim=-1).values
    return codec.decode(codes[..., last[0]])


def of_codec(codec: Codec, fill: Callable[[Codec, Tensor, Tensor], Tensor], kind: str, percent: int) -> System:
    def run(audio: Audio) -> Rendition:
        codes = codec.encode(torch.from_numpy(audio)[None, None])
        lost = torch.from_numpy(lost_frames(kind, percent, codes.shape[-1], seed=len(audio)))[None]
        return Rendition(fill(codec, codes, lost)[0, 0, : len(audio)].numpy(), 81 * codes.shape[-1])

    return run


def of_lyra(folder: Path, kind: str, percent: int) -> System:
    return lambda audio: lyra(folder, "4.0", audio, lost_frames(kind, percent, 2 + len(audio) // HOP + 5, len(audio)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="TSV with a column `path`")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that the paths are relative to")
    parser.add_argument("--metrics", nargs="*", default=["pesq", "stoi"])
    parser.add_argument("--lyra", type=Path, help="folder of Lyra's .tflite files")
    options = parser.parse_args(arguments)
    recordings = read_recordings(options.list, options.root)
    codec, heading = Codec.load("starter", "cpu"), ""
    fills = {"concealed": concealed, "last codes": with_last_codes, "zero codes": with_zero_codes}
    for kind, percent in PATTERNS:
        systems = {name: of_codec(codec, fill, kind, percent) for name, fill in fills.items()}
        if options.lyra:
            systems["Lyra V2, 4.0 kbps"] = of_lyra(options.lyra, kind, percent)
        for name, system in systems.items():
            texts = {
                "loss": f"{kind}, {percent} %",
                "system": name,
                **score_system(system, recordings, options.metrics),
            }
            if not heading:
                heading = f"| {' | '.join(texts)} |\n|{'---|' * len(texts)}"
                print(heading)
            print(f"| {' | '.join(texts.values())} |", flush=True)


if __name__ == "__main__":
    main()
