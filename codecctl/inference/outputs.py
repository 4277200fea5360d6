"""Where files are to be written. No torch here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from codecctl.errors import CodecctlError, UsageError


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


def plan_outputs(
    inputs: Iterable[Path], out_dir: Path, suffix: str, find: Callable[[Path], Iterable[Path]], kind: str
) -> list[tuple[Path, Path]]:
    """Each input with its output, NAME.suffix; a folder stands for what `find` returns, files of that `kind`,
    and its tree is kept.

    Files that differ by their suffix alone keep it: x.wav and x.aiff -> x.wav.npy and x.aiff.npy. Raises
    `CodecctlError` for a folder in which nothing is found, `UsageError` if two inputs have the same name.
    """
    places: dict[Path, Path] = {}  # input -> its place below `out_dir`
    for path in inputs:
        found = {file: file.relative_to(path) for file in find(path)} if path.is_dir() else {path: Path(path.name)}
        if not found:
            raise CodecctlError(f"{path}: holds no {kind}")
        places |= found
    n_alike = Counter(place.with_suffix(suffix) for place in places.values())
    pairs: dict[Path, Path] = {}
    for file, place in places.items():
        is_alone = n_alike[place.with_suffix(suffix)] == 1
        output = out_dir / (place.with_suffix(suffix) if is_alone else place.with_name(place.name + suffix))
        if output in pairs:
            raise UsageError(f"{pairs[output]} and {file} would both be written to {output}; use two folders")
        pairs[output] = file
    return [(file, output) for output, file in pairs.items()]
