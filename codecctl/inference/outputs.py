"""Checks of where a file is to be written."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from codecctl.errors import UsageError


def check_output(output: Path, suffixes: Collection[str], *, inputs: Iterable[str | Path]) -> None:
    """Raises `UsageError` for an unknown suffix, a missing folder, or an output that is an input or no plain file."""
    if output.suffix.lower() not in suffixes:
        raise UsageError(f"{output}: the suffix must be {' or '.join(suffixes)}")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: there is no folder {output.parent}")
    if output.exists():
        if not output.is_file():
            raise UsageError(f"{output}: exists and is not a plain file")
        if any(os.path.exists(path) and os.path.samefile(path, output) for path in inputs):
            raise UsageError(f"{output}: is the input itself; choose another name")
