"""A codec as a static web page: the page, its models as ONNX files of a chunk of frames, and onnxruntime-web."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch

from codecctl import __version__
from codecctl.errors import UsageError
from codecctl.export import web_runtime
from codecctl.export.folder import new_folder
from codecctl.export.graphs import CHUNK, INSTALL, labelled, traced, with_int8
from codecctl.export.steps import DecoderStep, EncoderStep, in_plain_operations
from codecctl.files import write_json
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec
from codecctl.inference.rounding import rounded

PAGE = Path(__file__).parent / "page"
_EXAMPLE = Path(__file__).parents[1] / "assets" / "clips" / "en-allison" / "vm-forward.flac"
_LOADED = ("runtime/ort-wasm-simd-threaded.wasm", "encoder.onnx", "decoder.onnx")  # in the order that worker.js expects


def write_web(source: Checkpoint, folder: Path, runtime: Path | None = None) -> dict[str, int]:
    """Write the folder whole, or not at all; returns the bytes of each file.

    `runtime`: see `web_runtime.read_runtime`. Raises `UsageError` if the folder exists and is not empty, or if onnx is
    not installed, and `CodecctlError` without the runtime.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(INSTALL) from None
    with new_folder(folder) as partial:
        shutil.copytree(PAGE, partial, dirs_exist_ok=True)
        shutil.copyfile(_EXAMPLE, partial / "example.flac")
        for name, content in web_runtime.read_runtime(runtime).items():
            (partial / "runtime" / name).write_bytes(content)
        for name, model in _models(source).items():
            onnx.save(model, partial / f"{name}.onnx")
        write_json(partial / "codec.json", _facts(source, partial))
        return {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}


def _models(source: Checkpoint) -> dict[str, Any]:
    """Of chunks: a page shows how far it is, and can stop. Weights take 8 bits where this changes none of them: the
    codes are those of the command line."""
    few_bits = rounded(source.model, source.weights)
    is_rounded = all(torch.equal(weight, source.weights[name].float()) for name, weight in few_bits.items())
    weights = Codec.of(source, torch.device("cpu")).state_dict()
    codec = in_plain_operations(Codec.of(source, torch.device("cpu")))
    models = {}
    for name, kind in (("encoder", EncoderStep), ("decoder", DecoderStep)):
        model = traced(kind(codec, CHUNK))
        models[name] = labelled(with_int8(model, source.model, weights) if is_rounded else model, source)
    return models


def _facts(source: Checkpoint, folder: Path) -> dict[str, Any]:
    """What the page must know of the codec, and of its files, so that those of two exports are not mixed."""
    model = source.model
    return {
        "format": "codecctl.web/1",
        "codecctl": __version__,
        "runtime": web_runtime.PACKAGE,
        "fingerprint": source.fingerprint,
        "sample_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "codebook_sizes": model.quantizer.codebook_sizes,
        "delay": model.delay,
        "chunk_frames": CHUNK,
        "files": {
            name: {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name in _LOADED
            for content in [(folder / name).read_bytes()]
        },
    }
