"""What a download would do, by the recipes and the disk, without asking a server; and consent to licences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codecctl.data.download.corpus import read_complete
from codecctl.data.download.disk import free_bytes
from codecctl.data.download.recipes import Corpus, Licence
from codecctl.errors import CodecctlError
from codecctl.files import read_json, write_json


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
    agreed = _read_agreed(root)
    return [_plan(corpus, root / corpus.name, agreed) for corpus in corpora]


def check_room(plans: Sequence[Plan], root: Path) -> None:
    """Raises `CodecctlError` if the plans do not fit on the disk together."""
    needed = sum(plan.n_bytes_needed or 0 for plan in plans)
    free = free_bytes(root)
    if needed > free:
        raise CodecctlError(
            f"{root}: {needed / 1e9:,.1f} GB are needed for archives and their content, {free / 1e9:,.1f} GB are free; "
            "make room, choose fewer or give another --root"
        )


def _plan(corpus: Corpus, folder: Path, agreed: Mapping[str, object]) -> Plan:
    done = read_complete(folder) is not None
    sources = (corpus.source, corpus.fallback)
    left, needed = (0, 0) if done else _sizes(corpus, folder)
    return Plan(
        corpus=corpus,
        folder=folder,
        done=done,
        origins=tuple(source.origin for source in sources if source is not None),
        n_bytes=left if corpus.n_bytes is not None else None,
        n_bytes_needed=needed if corpus.n_bytes is not None else None,
        asks_consent=corpus.licence.consent and corpus.licence.name not in agreed,
    )


def _sizes(corpus: Corpus, folder: Path) -> tuple[int, int]:
    """Bytes to fetch, and bytes needed on the disk."""
    total = corpus.n_bytes or 0
    arrived = sum(_size(folder / file.name) or _size(folder / f"{file.name}.part") for file in corpus.files)
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
