"""Atomic file writes, and JSON and text files written and read whole."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it replaces `path` when the block succeeds and is removed otherwise.

    `durable`: the file is on the disk when the block has ended. A killed process leaves `.NAME.*.PID.partial`.
    """
    partial = path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}.partial")
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
        if durable:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write an object as indented JSON, atomically."""
    write_lines(path, [json.dumps(content, indent=1, ensure_ascii=False) + "\n"], durable=durable)


def write_lines(path: Path, lines: Iterable[str], *, durable: bool = True) -> None:
    """Write a text file of lines (newlines included), atomically."""
    with replacing(path, durable=durable) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def to_json(value: Any) -> str:
    """One line of JSON for programs; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
