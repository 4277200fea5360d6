"""What a download would do, by what the recipes and the disk state; no server is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codecctl.data.download.corpus import read_complete
from codecctl.data.download.disk import free_bytes
from codecctl.data.download.licences import read_agreed
from codecctl.data.download.recipes import Corpus
from codecctl.errors import CodecctlError


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
    agreed = read_agreed(root)
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
