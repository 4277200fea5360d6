"""The kinds of files for codes by suffix. A new one is a file and a row here. No torch here."""

from __future__ import annotations

from codecctl.inference.container import Container
from codecctl.inference.npy import NPY
from codecctl.inference.packed import PACKED

CONTAINERS: dict[str, Container] = {".npy": NPY, ".cctl": PACKED}


def recognise(start: bytes) -> Container | None:
    """The container of a file with these first bytes, if it is one."""
    return next((container for container in CONTAINERS.values() if container.recognise(start)), None)
