"""Units of preparation: some hundred items each, the same ones in every run, so that only new ones are prepared.

`OUT/units/NAME.json` lists the items of a unit, `NAME.jsonl` their results, and `NAME.done` marks it as done, with a
hash of its input. An item stays in its unit; new items make new units after the old ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from codecctl.audio import pyav
from codecctl.data.prepare.items import AudioItem
from codecctl.errors import CodecctlError
from codecctl.files import remove_partials, write_json, write_lines
from codecctl.parsing import load_json, read_json
from codecctl.workers import hash_of

_MOST_FILES = 250
_MOST_BYTES = 128 * 2**20
_SHARD_SUFFIXES = (".pcm", ".parquet", ".safetensors", ".tar")


_FIELDS = tuple(field.name for field in fields(AudioItem))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True)
class Unit:
    """Items of one source that are prepared into one shard."""

    origin: str  # the source's path
    items: list[AudioItem]

    @property
    def root(self) -> Path:
        """The folder that the items' places are below. Raises `CodecctlError` if the system cannot say."""
        origin = Path(self.origin)
        try:
            return origin if origin.is_dir() else origin.parent
        except OSError as error:
            raise CodecctlError(f"{self.origin}: {error.strerror}") from None


class UnitFiles:
    """The paths of a unit's files: `spec`, `results`, `marker`, and `shard`, which gets a hash and a suffix."""

    def __init__(self, out: Path, name: str) -> None:
        self._out = out
        self.spec, self.results, self.marker = (out / "units" / f"{name}.{kind}" for kind in ("json", "jsonl", "done"))
        self.shard = out / "shards" / name

    def mark_done(self, input_hash: str, *, shard: str | None, **facts: Any) -> None:
        """Record that all outputs of the unit are in place; written last."""
        facts |= {"shard": shard, "n_bytes": self._n_bytes(shard)}
        write_json(self.marker, {"input": input_hash, **facts}, durable=False)

    def is_done(self, input_hash: str) -> bool:
        """Whether the unit's results are there, and a decoder installed since then cannot add to them."""
        facts = read_json(self.marker, dict) or {}
        if facts.get("input") != input_hash or (facts.get("lacked_av") and pyav.is_installed()):
            return False
        n_bytes = self._n_bytes(facts.get("shard"))
        return self.results.is_file() and n_bytes is not None and n_bytes == facts.get("n_bytes", n_bytes)

    def _n_bytes(self, shard: Any) -> int | None:
        """Of a shard of this folder, 0 without one; None if it is missing."""
        try:
            return (self._out / str(shard)).stat().st_size if shard else 0
        except OSError:
            return None

    def remove(self) -> None:
        for path in (self.marker, self.results, self.spec):
            path.unlink(missing_ok=True)


class Plan:
    """All units of a folder, and those among them that this job has to do: every n-th one, with `shard` = (i, n).

    `settings` are what a unit's result depends on besides its items.
    """

    def __init__(self, out: Path, settings: Sequence[Any], shard: tuple[int, int]) -> None:
        self._out, self.names = out, unit_names(out)
        self._hashes: dict[str, str] = {}
        self.n_items: dict[str, int] = {}
        for name in self.names:
            items = read_unit(out, name).items
            self._hashes[name], self.n_items[name] = hash_of(list(map(_as_json, items)), settings), len(items)
        own = self.names[shard[0] - 1 :: shard[1]]
        self.todo = [(name, self._hashes[name]) for name in own if not self._is_done(name)]

    @property
    def n_items_todo(self) -> int:
        return sum(self.n_items[name] for name, _ in self.todo)

    def count_left(self) -> int:
        """Units that are not done now, of all jobs."""
        return sum(not self._is_done(name) for name in self.names)

    def _is_done(self, name: str) -> bool:
        return UnitFiles(self._out, name).is_done(self._hashes[name])


def unit_names(out: Path) -> list[str]:
    """All units of a prepared folder, in order."""
    return sorted(path.stem for path in (out / "units").glob("*.json"))


def read_unit(out: Path, name: str) -> Unit:
    """A unit from its spec. Raises `CodecctlError` if that is damaged."""
    path = UnitFiles(out, name).spec
    return load_json(path, Unit, missing=f"{path}: no such file", hint="remove it and run the same command again")


def source_name(out: Path, origin: Path) -> str:
    """A name for a source: its own, with those of its parents before it where another source has that name."""
    first = {name.rpartition("-")[0]: name for name in reversed(unit_names(out))}
    taken = {source: read_unit(out, name).origin for source, name in first.items()}
    path = origin.resolve()
    own = [*path.parent.parts, path.name if path.is_dir() else path.stem]
    parts = [re.sub(r"[^\w.-]+", "_", part) for part in own if part != path.anchor]
    for n_parts in range(1, len(parts) + 1):
        name = "-".join(parts[-n_parts:])
        if taken.get(name, str(path)) == str(path):
            return name
    raise CodecctlError(f"{origin}: another source of this name was prepared into {out}; rename the folder")


def plan_units(out: Path, source: str, origin: Path, items: Iterable[AudioItem]) -> None:
    """Assign every item of a source to a unit and write the units' specs.

    Items that are gone leave their unit; a unit without items is removed.
    """
    (out / "units").mkdir(parents=True, exist_ok=True)
    (out / "shards").mkdir(exist_ok=True)
    new = {item.place: item for item in items}
    last = 0
    for name in [name for name in unit_names(out) if name.rpartition("-")[0] == source]:
        known = [new.pop(old.place) for old in read_unit(out, name).items if old.place in new]
        if known:
            _write_unit(out, name, origin, known)
            last = max(last, int(name.rpartition("-")[2]))
        else:
            UnitFiles(out, name).remove()
    for number, part in enumerate(_parts(new.values()), start=last + 1):
        _write_unit(out, f"{source}-{number:05d}", origin, part)


def _parts(items: Iterable[AudioItem]) -> Iterator[list[AudioItem]]:
    """Parts of bounded size; items that are read together (`AudioItem.part`) are not separated."""
    part: list[AudioItem] = []
    n_bytes = 0
    for item in items:
        is_full = len(part) >= _MOST_FILES or n_bytes + item.n_bytes > _MOST_BYTES
        if part and is_full and (item.part is None or item.part != part[-1].part):
            yield part
            part, n_bytes = [], 0
        part.append(item)
        n_bytes += item.n_bytes
    if part:
        yield part


def _as_json(item: AudioItem) -> dict[str, Any]:
    return {name: value for name, value in zip(_FIELDS, _values(item), strict=True) if value is not None}


def _write_unit(out: Path, name: str, origin: Path, items: Iterable[AudioItem]) -> None:
    path = UnitFiles(out, name).spec
    text = json.dumps({"origin": str(origin.resolve()), "items": list(map(_as_json, items))}) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_lines(path, [text])


def tidy(out: Path, merged: Collection[str], named: Collection[str | None]) -> None:
    """Remove shards and indices that are not `named`, and temporary files of processes that have ended. Shards of units
    that are not among those `merged` stay: another process has added them meanwhile."""
    others = {*unit_names(out)} - {*merged}
    shards = (path for path in (out / "shards").iterdir() if path.suffix in _SHARD_SUFFIXES)
    stale = [path for path in shards if path.name.rpartition("-")[0] not in others]
    for path in (*stale, *out.glob("index-*.npy")):
        if path.relative_to(out).as_posix() not in named:
            path.unlink(missing_ok=True)
    for folder in (out, out / "shards", out / "units"):
        remove_partials(folder)
