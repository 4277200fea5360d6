"""The files of onnxruntime-web, from its npm package: fetched by npm, or from a place that the user names."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from codecctl.errors import CodecctlError, UsageError

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
# The build for the processor alone. A page loads the script under a suffix that every server knows as JavaScript.
_SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_MAX_BYTES = 64 << 20  # of a file, whatever an archive claims
_BY_HAND = f"where npm is installed, `npm pack {PACKAGE}` fetches the package; name its file with --runtime"


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
    if place.is_dir():
        if not (place / name).is_file():
            raise CodecctlError(f"{place}: no npm package with {name}; --runtime takes {PACKAGE}")
        return (place / name).read_bytes()
    try:
        with tarfile.open(place) as archive:
            file = archive.extractfile(f"package/{name}")
            return file.read(_MAX_BYTES) if file else b""
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, KeyError, EOFError, ValueError):
        raise CodecctlError(f"{place}: no npm package with {name}; --runtime takes {PACKAGE}") from None
