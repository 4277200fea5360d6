"""The kinds of files for codes by suffix. A new one is a file and a row here. No torch here."""

from __future__ import annotations

from pathlib import Path

from codecctl.audio.files import find_files
from codecctl.inference.container import Container
from codecctl.inference.npy import NPY
from codecctl.inference.packed import PACKED

CONTAINERS: dict[str, Container] = {".npy": NPY, ".cctl": PACKED}


def recognise(start: bytes) -> Container | None:
    """The container of a file with these first bytes, if it is one."""
    return next((container for container in CONTAINERS.values() if container.recognise(start)), None)


def find_codes(folder: Path) -> list[Path]:
    """The files of codes below a folder, by suffix, in order."""
    return sorted(map(Path, find_files(folder, CONTAINERS)))
