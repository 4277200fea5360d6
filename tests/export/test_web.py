"""`export --to web`: what it refuses, and the page's reader and writer of `.cctl`. No runtime is needed here."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codecctl.bitstream import PackedHeader, PackedWriter
from codecctl.errors import CodecctlError, UsageError
from codecctl.export import web
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.find import find_checkpoint
from tests.browser import headless
from tests.export.server import served

CODEC = {"fingerprint": "0123456789abcdef", "sample_rate": 16000, "hop_length": 320, "codebook_sizes": [2048, 16, 2]}


@pytest.fixture
def starter() -> Checkpoint:
    return Checkpoint.read(find_checkpoint("starter"))


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An npm package of these files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["other", "empty", "cut", "text", "folder", "nowhere"])
def test_what_is_not_the_pinned_package_is_one_line_and_leaves_nothing(
    kind: str, starter: Checkpoint, tmp_path: Path
) -> None:
    names = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
    place = pack(tmp_path / "package.tgz", {name: bytes(9000) for name in names})
    match kind:
        case "empty":
            pack(place, {})
        case "cut":
            place.write_bytes(place.read_bytes()[:100])
        case "text":
            place.write_text("no archive")
        case "folder":
            place = tmp_path
        case "nowhere":
            place = tmp_path / "nowhere"
    with pytest.raises(CodecctlError, match=rf"^{place}: .*onnxruntime-web@{web.VERSION}") as caught:
        web.write_web(starter, tmp_path / "site", runtime=place)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"package.tgz"}


def test_without_npm_the_message_says_what_to_do(
    starter: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"npm.* is not installed; .*`npm pack onnxruntime-web@.* with --runtime"):
        web.write_web(starter, tmp_path / "site")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_what_npm_cannot_fetch_is_one_line(
    starter: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(CodecctlError, match=r"^npm cannot fetch onnxruntime-web@.* \(npm error code .*--runtime$"):
        web.write_web(starter, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_with_files_is_left_alone(starter: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty"):
        web.write_web(starter, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A browser with nothing but the page's scripts; no runtime is needed."""
    with headless() as browser, served(web.PAGE) as url:
        browser.get(f"{url}packed.js")
        yield browser


def in_page(browser: Any, program: str, *arguments: Any) -> Any:
    """What an asynchronous function with the names of `packed.js` returns for these arguments."""
    return browser.execute_async_script(
        f"""
        const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);
        import("/packed.js").then(async (packed) => {{ done(await (async (...a) => {{ {program} }})(...given)); }})
          .catch((error) => done(`${{error.constructor.name}}: ${{error.message}}`));
        """,
        *arguments,
    )


def write(path: Path, codes: np.ndarray[Any, Any], n_samples: int, **changes: Any) -> list[int]:
    header = {**CODEC, "codebook_sizes": tuple(CODEC["codebook_sizes"][: len(codes)]), **changes}  # type: ignore[index]
    with PackedWriter(path, **header) as writer:
        writer.write(codes)
        writer.n_samples = n_samples
    return list(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(("n_codebooks", "n_frames"), [(3, 1), (1, 399), (2, 400), (3, 401), (3, 1203)])
def test_the_page_writes_and_reads_the_files_of_the_command_line(
    page: Any, tmp_path: Path, n_codebooks: int, n_frames: int
) -> None:
    sizes = [2048, 16, 2][:n_codebooks]
    codes = np.random.default_rng(0).integers(0, np.array(sizes)[:, None], (n_codebooks, n_frames))
    n_samples = 320 * n_frames - 7
    ours = write(tmp_path / "codes.cctl", codes, n_samples)
    theirs = in_page(page, "return [...packed.pack(a[0], a[1], a[2])]", CODEC, codes.tolist(), n_samples)
    assert theirs == ours
    assert in_page(page, "return packed.packedSize(...a)", CODEC, n_codebooks, n_samples) == len(ours)
    read = "const r = packed.unpack(a[0], new Uint8Array(a[1])); return [r.nSamples, r.codes.map((row) => [...row])]"
    assert in_page(page, read, CODEC, ours) == [n_samples, codes.tolist()]
    other_blocks = write(tmp_path / "codes.cctl", codes, n_samples, frames_per_block=8)
    assert in_page(page, read, CODEC, other_blocks) == [n_samples, codes.tolist()]


@pytest.mark.slow
def test_the_page_refuses_damaged_files_and_those_of_another_model(page: Any, tmp_path: Path) -> None:
    codes, read = np.ones((3, 500), np.uint16), "return packed.unpack(a[0], new Uint8Array(a[1]))"
    good = write(tmp_path / "codes.cctl", codes, 160_000)
    header = {**CODEC, "codebook_sizes": tuple(CODEC["codebook_sizes"])}  # type: ignore[arg-type]
    cases = {
        "bytes, and its header says": good[:-1],
        "has 44 bytes, and its header says 6": list(PackedHeader(**header, n_samples=2**40).to_bytes()),  # type: ignore[arg-type]
        "damaged from 8.00 to 10.00 s": [*good[:-6], good[-6] ^ 1, *good[-5:]],
        "the header of the file is damaged": [*good[:24], good[24] ^ 1, *good[25:]],
        "no whole .cctl file": good[:20],
        "format version 2": [*good[:4], 2, *good[5:]],
        "made by the model fedcba9876543210, and this page has 0123456789abcdef": write(
            tmp_path / "other.cctl", codes, 160_000, fingerprint="fedcba9876543210"
        ),
        "names this model, but not its": write(tmp_path / "other.cctl", codes, 160_000, sample_rate=8000),
    }
    for message, content in cases.items():
        answer = in_page(page, read, CODEC, content)
        assert isinstance(answer, str), message
        assert answer.startswith("PackedError: ")
        assert message in answer
