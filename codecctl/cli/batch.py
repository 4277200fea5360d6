"""What `encode` and `decode` have in common: one input to a file or stdout, or several to a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from codecctl.cli.console import reason, say
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import NO_ROOM


def check_request(
    inputs: Sequence[Path], output: Path | None, out_dir: Path | None, form: str | None, suffixes: Collection[str]
) -> None:
    """Raises `UsageError` for options that do not fit each other."""
    if form and f".{form}" not in suffixes:
        raise UsageError(f"--format {form}: expected {' or '.join(suffix[1:] for suffix in suffixes)}")
    if output and (out_dir or form):
        raise UsageError("-o names the file and, by its suffix, the format; leave out --out-dir and --format")
    if not out_dir and (len(inputs) > 1 or inputs[0].is_dir()):
        raise UsageError("several inputs or a folder need --out-dir DIR")
    if out_dir and Path("-") in inputs:
        raise UsageError("stdin has no name for a file in --out-dir; use -o")
    if out_dir:
        check_out_dir(out_dir)


def check_out_dir(out_dir: Path) -> None:
    """Raises `UsageError` for a file, or a path below a file."""
    there = next(path for path in (out_dir, *out_dir.parents, Path()) if os.path.lexists(path))
    if not there.is_dir():
        raise UsageError(f"{there}: is not a folder; --out-dir takes one")


def convert_all(pairs: Sequence[tuple[Path, Path]], out_dir: Path, convert: Callable[[Path, Path], None]) -> None:
    """`convert` each (input, output). A file that fails is named and does not stop the others; a full disk does.

    Raises `CodecctlError` at the end if a file failed.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    n_failed = 0
    for path, output in pairs:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            convert(path, output)
        except CodecctlError as error:
            problem = str(error)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            problem = reason(error, path)
        else:
            continue
        n_failed += 1
        say(f" {problem}", label="failed:", style="bold red")
    if n_failed:
        others = f"; the others are in {out_dir}" if n_failed < len(pairs) else ""
        raise CodecctlError(f"{n_failed} of {len(pairs)} files failed{others}")
