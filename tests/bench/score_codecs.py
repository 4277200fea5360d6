"""Score the shipped codec and others on the same recordings, and print a table.

    python -m tests.bench.score_codecs LIST.tsv --root FOLDER --codecs starter opus6 amrwb6.6 lyra3.2 --lyra FOLDER

LIST.tsv has a column `path`, relative to --root. Codecs: `starter` or another checkpoint; `opusKBPS`, with the extra
`av`; `amrwbKBPS`, with the libraries libvo-amrwbenc and libopencore-amrwb; `lyraKBPS`, with `ai-edge-litert` and, in
--lyra, the three .tflite files of google/lyra 1.3.2. --metrics takes the names of `validate.metrics`, each of which
needs its package; SI-SDR and the mel distance are always printed.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.audio.files import read_audio, to_mono, to_pcm16
from codecctl.audio.resample import resample
from codecctl.evaluate.alignment import align, find_delay
from codecctl.evaluate.intervals import means
from codecctl.evaluate.metrics.metric import SAMPLE_RATE
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.metrics.ratios import si_sdr_db
from codecctl.evaluate.metrics.spectral import MelDistance
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.perceptual import score, unavailable
from codecctl.evaluate.rendering import CODEC, Rendition, opus, render_codec
from codecctl.inference.load import Codec

System = Callable[[Audio], Rendition]
HOP = 320  # samples of a 20 ms frame of AMR-WB and Lyra
TAIL = 5 * HOP  # samples of silence appended, so that a codec's delay cuts nothing off
AMR_WB_BITS = {"6.6": 132, "8.85": 177, "12.65": 253}  # of a frame, in the order of the modes


def frames_of(audio: Audio) -> NDArray[np.int16]:
    """[L] -> [T, HOP] 16-bit samples, with the tail."""
    return to_pcm16(np.pad(audio, (0, TAIL + -len(audio) % HOP))).reshape(-1, HOP)


def to_float(pcm: NDArray[np.int16]) -> Audio:
    return pcm.ravel().astype(np.float32) / 32768


def amr_wb(kbps: str, audio: Audio) -> Rendition:
    """3GPP TS 26.173 by the libraries of opencore-amr, through ctypes."""
    amr_encoder, amr_decoder = ctypes.CDLL("libvo-amrwbenc.so.0"), ctypes.CDLL("libopencore-amrwb.so.0")
    amr_encoder.E_IF_init.restype = amr_decoder.D_IF_init.restype = ctypes.c_void_p
    encoder, decoder = ctypes.c_void_p(amr_encoder.E_IF_init()), ctypes.c_void_p(amr_decoder.D_IF_init())
    mode, packet = list(AMR_WB_BITS).index(kbps), ctypes.create_string_buffer(64)
    decoded = np.zeros_like(pcm := frames_of(audio))
    for frame, out in zip(pcm, decoded, strict=True):
        amr_encoder.E_IF_encode(encoder, mode, frame.ctypes, packet, 0)
        amr_decoder.D_IF_decode(decoder, packet, out.ctypes, 0)
    amr_encoder.E_IF_exit(encoder)
    amr_decoder.D_IF_exit(decoder)
    return Rendition(to_float(decoded), AMR_WB_BITS[kbps] * len(pcm))


def lyra(folder: Path, kbps: str, audio: Audio, lost: NDArray[np.bool_] | None = None) -> Rendition:
    """Lyra V2. Its networks keep their state inside the interpreters, so each recording gets new ones.

    `lost` [T]: frames that did not arrive. Lyra synthesises those from zeros; after 80 ms it fades to comfort noise
    within 40 ms, and back (lyra_decoder.cc). Here silence stands for the comfort noise: clean recordings have none.
    """
    from ai_edge_litert.interpreter import Interpreter

    def network(name: str) -> Callable[[Audio], Audio]:
        model = Interpreter(str(folder / f"{name}.tflite"), num_threads=1)
        model.allocate_tensors()

        def call(values: Audio) -> Audio:
            model.set_tensor(model.get_input_details()[0]["index"], values)
            model.invoke()
            output: Audio = model.get_tensor(model.get_output_details()[0]["index"])
            return output

        return call

    analyse, synthesise = network("soundstream_encoder"), network("lyragan")
    quantizer = Interpreter(str(folder / "quantizer.tflite"), num_threads=1)
    encode, decode = (quantizer.get_signature_runner(name) for name in ("encode", "decode"))
    n_stages = round(float(kbps) * 1000 / 50 / 4)  # 50 frames a second, 4 bits a stage
    decoded = np.zeros((pcm := frames_of(audio)).shape, np.float32)
    n_missing, faded = 0, 0  # frames in a row that are lost; samples faded so far
    for t, frame in enumerate(pcm):
        features = analyse(to_float(frame)[None])
        stages = encode(input_frames=features, num_quantizers=np.array(n_stages, np.int32))["output_0"]
        received = decode(encoding_indices=stages)["output_0"]
        n_missing = n_missing + 1 if lost is not None and lost[t] else 0
        step = 1 if n_missing > 4 else -1
        if step > 0 and faded == 2 * HOP:
            continue  # the network stands still
        progress = (faded + step * np.arange(HOP)).clip(0, 2 * HOP)
        played = synthesise(np.zeros_like(received) if n_missing else received)[0]
        decoded[t] = played * (1 + np.cos(np.pi * progress / (2 * HOP))) / 2
        faded = min(max(faded + step * HOP, 0), 2 * HOP)
    return Rendition(decoded.ravel().clip(-1, 1), 4 * n_stages * len(pcm))


def find_system(name: str, lyra_folder: Path | None) -> System:
    if name.startswith("opus"):
        return lambda audio: opus(audio, SAMPLE_RATE, float(name.removeprefix("opus")))
    if name.startswith("amrwb"):
        return lambda audio: amr_wb(name.removeprefix("amrwb"), audio)
    if name.startswith("lyra"):
        if lyra_folder is None:
            raise SystemExit(f"{name}: give the folder of its .tflite files with --lyra")
        return lambda audio: lyra(lyra_folder, name.removeprefix("lyra"), audio)
    codec = Codec.load(name, "cpu")
    return lambda audio: render_codec(codec, torch.from_numpy(audio)[None, None])[1][CODEC]


def read_recordings(path: Path, root: Path) -> list[Audio]:
    """[L] at 16 kHz, one for each row."""
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    read = (read_audio(root / row["path"]) for row in rows)
    return [resample(to_mono(audio), rate, SAMPLE_RATE)[0] for audio, rate in read]


@torch.inference_mode()
def score_system(system: System, recordings: Sequence[Audio], metrics: Sequence[str]) -> dict[str, str]:
    """Means over the recordings with half the width of their 95 % interval, as text."""
    made = [system(audio) for audio in recordings]
    pairs = [(audio, rendition.audio) for audio, rendition in zip(recordings, made, strict=True)]
    delay, distance = find_delay(pairs, SAMPLE_RATE), MelDistance(SAMPLE_RATE)
    rows = []
    for reference, decoded in (align(*pair, delay) for pair in pairs):
        a, b = (torch.from_numpy(np.ascontiguousarray(each))[None] for each in (reference, decoded))
        signal = {"si_sdr_db": float(si_sdr_db(a, b)), "mel_distance": float(distance(a, b))}
        rows.append({**score(reference, decoded, metrics), **signal})
    seconds = sum(HOP * -(-len(rendition.audio) // HOP) for rendition in made) / SAMPLE_RATE
    texts = {"kbps": f"{sum(rendition.n_bits or 0 for rendition in made) / seconds / 1000:.2f}"}
    for name, mean in zip(rows[0], means(np.array([list(row.values()) for row in rows])), strict=True):
        digits = METRICS[name].digits
        texts[METRICS[name].label] = f"{mean.mean:.{digits}f} ± {(mean.high - mean.low) / 2:.{digits}f}"
    return texts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="TSV with a column `path`")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that the paths are relative to")
    parser.add_argument("--codecs", nargs="+", default=["starter"])
    parser.add_argument("--metrics", nargs="*", choices=PERCEPTUAL_METRICS, default=["stoi"])
    parser.add_argument("--lyra", type=Path, help="folder of Lyra's .tflite files")
    options = parser.parse_args(arguments)
    missing = unavailable(options.metrics)
    if absent := [name for name in options.metrics if PERCEPTUAL_METRICS[name].outputs[0].name in missing]:
        raise SystemExit("; ".join(f"{name}: {missing[PERCEPTUAL_METRICS[name].outputs[0].name]}" for name in absent))
    recordings = read_recordings(options.list, options.root)
    for name in options.codecs:
        texts = score_system(find_system(name, options.lyra), recordings, options.metrics)
        if name == options.codecs[0]:
            print(f"| codec | {' | '.join(texts)} |\n|{'---|' * (len(texts) + 1)}")
        print(f"| {name} | {' | '.join(texts.values())} |", flush=True)


if __name__ == "__main__":
    main()
