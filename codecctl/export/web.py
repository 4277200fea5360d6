"""A codec as a static web page: the page, its models as ONNX files of a chunk of frames, and onnxruntime-web."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch

from codecctl import __version__
from codecctl.errors import CodecctlError, UsageError
from codecctl.export.graphs import CHUNK, import_onnx, labelled, traced, with_int8
from codecctl.export.steps import DecoderStep, EncoderStep, in_plain_operations
from codecctl.files import new_folder, write_json
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec
from codecctl.inference.rounding import rounded

PAGE = Path(__file__).parent / "page"
_EXAMPLE = Path(__file__).parents[1] / "assets" / "clips" / "en-allison" / "vm-forward.flac"
_LOADED = ("runtime/ort-wasm-simd-threaded.wasm", "encoder.onnx", "decoder.onnx")  # in the order that worker.js expects


VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
# The build for the processor alone. A page loads the script under a suffix that every server knows as JavaScript.
_SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_MAX_BYTES = 64 << 20  # of a file, whatever an archive claims
_BY_HAND = f"where npm is installed, `npm pack {PACKAGE}` fetches the package; name its file with --runtime"


def write_web(source: Checkpoint, folder: Path, runtime: Path | None = None) -> dict[str, int]:
    """Write the folder whole, or not at all; returns the bytes of each file.

    `runtime`: see `read_runtime`. Raises `UsageError` if the folder exists and is not empty, or if onnx is
    not installed, and `CodecctlError` without the runtime.
    """
    onnx = import_onnx()
    with new_folder(folder) as partial:
        shutil.copytree(PAGE, partial, dirs_exist_ok=True)
        shutil.copyfile(_EXAMPLE, partial / "example.flac")
        for name, content in read_runtime(runtime).items():
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
        "runtime": PACKAGE,
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


def read_runtime(place: Path | None) -> dict[str, bytes]:
    """The script and the WebAssembly file by name; `place`: the package as a `.tgz` or a folder. None: npm fetches it.

    Raises `CodecctlError` if they are not those of `VERSION`, or not to be had.
    """
    if place is None:
        with tempfile.TemporaryDirectory() as folder:
            return read_runtime(fetch_package(Path(folder)))
    files = {name: _read(place, f"dist/{name}") for name in _SHA256}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != _SHA256[name]:
            raise CodecctlError(f"{place}: its dist/{name} is not that of {PACKAGE}; {_BY_HAND}")
    return {name.removesuffix(".mjs") + ".js" * name.endswith(".mjs"): content for name, content in files.items()}


def fetch_package(folder: Path) -> Path:
    """The package in `folder`, as npm fetches it: with the user's settings, and from its cache if it is there.

    Raises `UsageError` without npm, and `CodecctlError` if npm fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(f"npm, which fetches {PACKAGE}, is not installed; {_BY_HAND}")
    command = [npm, "pack", PACKAGE, "--loglevel=error", "--pack-destination", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    packages = list(folder.glob("*.tgz"))
    if done.returncode or not packages:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise CodecctlError(f"npm cannot fetch {PACKAGE} ({why}); {_BY_HAND}")
    return packages[0]


def _read(place: Path, name: str) -> bytes:
    """A file of the package."""
    try:
        if place.is_dir():
            return (place / name).read_bytes()
        with tarfile.open(place) as archive:
            file = archive.extractfile(f"package/{name}")
            return file.read(_MAX_BYTES) if file else b""
    except (OSError, tarfile.TarError, zlib.error, KeyError, EOFError, ValueError):
        message = f"{place}: no npm package with {name}; --runtime takes {PACKAGE}, as a .tgz or a folder"
        raise CodecctlError(message) from None
