"""Which speakers are kept for validation. A hash decides, so that new data moves no speaker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from codecctl.data.manifest import Split


@dataclass
class Group:
    """What must not be divided between the splits: a speaker, or one utterance whose speaker is unknown."""

    language: str | None
    seconds: float = 0.0


def assign_splits(
    groups: Mapping[str, Group], *, seed: int, share: float, before: Mapping[str, Split] | None = None
) -> dict[str, Split]:
    """A split for each group: validation for about `share` of them, by a hash of (seed, group).

    Where the hash selects no group of a language for validation, its smallest one is taken if it has two or more, so
    that every language with two speakers is validated. Groups in `before`, from earlier runs, keep their split.
    """
    before = before or {}
    splits: dict[str, Split] = {
        name: before.get(name) or ("validation" if _uniform(seed, name) < share else "train") for name in sorted(groups)
    }
    if share <= 0 or not groups:
        return splits
    by_language = defaultdict(list)
    for name in splits:
        by_language[groups[name].language].append(name)
    for names in by_language.values():
        _move_one(names, splits, groups, before, to="validation")
    _move_one(list(splits), splits, groups, before, to="validation")
    _move_one(list(splits), splits, groups, before, to="train")
    return splits


def _move_one(
    names: Sequence[str],
    splits: dict[str, Split],
    groups: Mapping[str, Group],
    before: Mapping[str, Split],
    *,
    to: Split,
) -> None:
    """If the split `to` has none of two or more groups, move one of the new ones there: the smallest, or the largest
    for training."""
    new = sorted((name for name in names if name not in before), key=lambda name: (groups[name].seconds, name))
    if new and (len(names) > 1 or to == "train") and all(splits[name] != to for name in names):
        splits[new[-1] if to == "train" else new[0]] = to


def _uniform(seed: int, name: str) -> float:
    """A number in [0, 1) that follows from both."""
    digest = blake2b(f"{seed}\0{name}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
