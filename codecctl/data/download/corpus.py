"""A corpus on the disk: a folder with `corpus.json`, which is written last; what a download would do; and consent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from codecctl.config.model import Section
from codecctl.data.download.disk import free_bytes
from codecctl.data.download.recipes import Corpus, Licence
from codecctl.data.download.remote import FetchedFile
from codecctl.errors import CodecctlError
from codecctl.files import write_json
from codecctl.parsing import load_json, read_json

MARKER_NAME = "corpus.json"
_NO_CORPUS = "no downloaded corpus; name it as a source if it holds recordings"


class Marker(Section):
    """`corpus.json`: this folder holds the whole corpus."""

    format: Literal["codecctl.corpus/1"] = "codecctl.corpus/1"
    corpus: Corpus
    pin: str | None = Field(None, description="commit or dataset id that was fetched")
    files: tuple[FetchedFile, ...]
    n_audio_files: int = Field(description="recordings, or Parquet files with recordings")
    finished: str = Field(description="UTC")


def read_marker(folder: Path) -> Marker | None:
    """The marker of a whole downloaded corpus, or None. Raises `CodecctlError` if it is damaged."""
    path = folder / MARKER_NAME
    if not path.exists():
        return None
    return load_json(path, Marker, missing=f"{path}: no such file", hint="remove it and run `codecctl download` again")


def read_complete(folder: Path) -> Marker | None:
    """As `read_marker`; also None if a file that the marker lists is missing."""
    marker = read_marker(folder)
    return marker if marker is not None and all(file.is_in(folder) for file in marker.files) else None


def find_corpora(root: Path, note: Callable[[str], None] = lambda line: None) -> list[Path]:
    """`root` and the folders in it that hold a whole downloaded corpus. `note` receives a line on each folder beside
    them that holds none."""
    inside = sorted(root.glob("*"))
    found = [folder for folder in (root, *inside) if (folder / MARKER_NAME).is_file()]
    if found and root not in found:
        for folder in inside:
            if folder not in found and folder.is_dir() and not folder.name.startswith("."):
                note(f"{folder}: left out: {'its download is not finished' if is_unfinished(folder) else _NO_CORPUS}")
    return found


def is_unfinished(folder: Path) -> bool:
    """Whether a download into this folder has begun and not finished."""
    return not (folder / MARKER_NAME).is_file() and any(folder.glob(".lease-*"))


@dataclass(frozen=True)
class Plan:
    """What `download` would do for one corpus."""

    corpus: Corpus
    folder: Path
    done: bool
    origins: tuple[str, ...]  # hosts or repositories, in the order in which they are tried
    n_bytes: int | None  # still to fetch; None: only the server knows
    n_bytes_needed: int | None  # on the disk, for archives and their content
    asks_consent: bool


def make_plan(corpora: Sequence[Corpus], root: Path) -> list[Plan]:
    """A plan for each corpus."""
    agreed, plans = _read_agreed(root), []
    for corpus in corpora:
        folder, is_known = root / corpus.name, corpus.source.n_bytes is not None
        done = read_complete(folder) is not None
        left, needed = (0, 0) if done else _sizes(corpus, folder)
        origins = tuple(source.origin for source in (corpus.source, corpus.fallback) if source is not None)
        asks = corpus.licence.consent and corpus.licence.name not in agreed
        plans.append(
            Plan(corpus, folder, done, origins, left if is_known else None, needed if is_known else None, asks)
        )
    return plans


def check_room(plans: Sequence[Plan], root: Path) -> None:
    """Raises `CodecctlError` if the plans do not fit on the disk together."""
    needed = sum(plan.n_bytes_needed or 0 for plan in plans)
    free = free_bytes(root)
    if needed > free:
        raise CodecctlError(
            f"{root}: {needed / 1e9:,.1f} GB are needed for archives and their content, {free / 1e9:,.1f} GB are free; "
            "make room, choose fewer or give another --root"
        )


def _sizes(corpus: Corpus, folder: Path) -> tuple[int, int]:
    """Bytes to fetch, and bytes needed on the disk."""
    total = corpus.source.n_bytes or 0
    arrived = sum(
        _size(folder / file.name) or _size(folder / f"{file.name}.part") for file in corpus.source.known_files
    )
    left = max(0, total - arrived)
    return left, left + int(total * corpus.unpacked_ratio) * corpus.source.has_archives


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_agreed(root: Path) -> Mapping[str, Any]:
    """The licences that the user has agreed to, by name."""
    return read_json(root / "licences.json", dict) or {}


def agree(licence: Licence, root: Path, accepted: Collection[str], ask: Callable[[Licence], bool]) -> None:
    """Make sure that the user has consented: earlier, by `accepted`, or when asked. Raises `CodecctlError`."""
    agreed = _read_agreed(root)
    if not licence.consent or licence.name in agreed:
        return
    if licence.name not in accepted and not ask(licence):
        raise CodecctlError(
            f"its licence needs your consent: read {licence.url} and add --accept-licence {licence.name}"
        )
    root.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(root / "licences.json", {**agreed, licence.name: {"url": licence.url, "agreed": now}})
