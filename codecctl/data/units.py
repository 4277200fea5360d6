"""Units of preparation: some hundred recordings each, the same ones on every run, so that only what is new is done.

`OUT/units/NAME.json` says which recordings a unit has, `NAME.jsonl` what became of them, `NAME.done` that it is done
and from which input. A recording belongs to its unit for good; new recordings make new units behind the old ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from operator import attrgetter
from os.path import splitext
from pathlib import Path
from typing import Any

from codecctl.audio import pyav
from codecctl.data.manifest import write_lines
from codecctl.data.sources import Entry, root_of
from codecctl.errors import CodecctlError
from codecctl.workers import hash_of, is_done, read_marker

_FIELDS = tuple(field.name for field in fields(Entry))
_values = attrgetter(*_FIELDS)
_MOST_FILES = 250
_MOST_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Unit:
    """Some recordings of one source, to be prepared into one shard."""

    name: str
    source: str  # its name
    origin: str  # where the source lies
    entries: list[Entry]

    @property
    def root(self) -> Path:
        """The folder that the entries' places are under."""
        return root_of(Path(self.origin))

    def input_hash(self, settings: Any) -> str:
        """Changes when a recording, what is known of it, or a setting of `prepare` changes, and when a decoder that the
        unit asks for gets installed."""
        asks = any(splitext(entry.file or entry.place)[1].lower() in pyav.SUFFIXES for entry in self.entries)
        return hash_of(list(map(_as_json, self.entries)), settings, asks and find_spec("av") is not None)


@dataclass(frozen=True)
class UnitFiles:
    """Where a unit's files lie."""

    out: Path
    name: str

    @property
    def spec(self) -> Path:
        return self.out / "units" / f"{self.name}.json"

    @property
    def results(self) -> Path:
        return self.out / "units" / f"{self.name}.jsonl"

    @property
    def marker(self) -> Path:
        return self.out / "units" / f"{self.name}.done"

    @property
    def shard(self) -> Path:
        """Without the hash and suffix that it gets when it is written."""
        return self.out / "shards" / self.name

    def is_done(self, input_hash: str) -> bool:
        if not is_done(self.marker, input_hash):
            return False
        shard = read_marker(self.marker).get("shard")
        return shard is None or (self.out / shard).is_file()

    def remove(self) -> None:
        for path in (self.marker, self.results, self.spec):
            path.unlink(missing_ok=True)


def unit_names(out: Path) -> list[str]:
    """All units of a prepared folder, in order."""
    return sorted(path.stem for path in (out / "units").glob("*.json"))


def read_unit(out: Path, name: str) -> Unit:
    path = UnitFiles(out, name).spec
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        return Unit(name, spec["source"], spec["origin"], [Entry(**entry) for entry in spec["entries"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CodecctlError(f"{path}: cannot be read ({error}); remove it and run prepare again") from None


def source_name(out: Path, origin: Path) -> str:
    """A name for the source: its own, with those of its parents before it where another source has it already."""
    taken = _origins(out)
    path = origin.resolve()
    own = [*path.parent.parts, path.name if path.is_dir() else path.stem]
    parts = [re.sub(r"[^\w.-]+", "_", part) for part in own if part != path.anchor]
    for n_parts in range(1, len(parts) + 1):
        name = "-".join(parts[-n_parts:])
        if taken.get(name, str(path)) == str(path):
            return name
    raise CodecctlError(f"{origin}: another source of this name was prepared into {out}; rename the folder")


def plan_units(out: Path, source: str, origin: Path, entries: Iterable[Entry]) -> list[str]:
    """Put every recording of a source into its unit and write the units down; returns their names.

    Recordings that are gone leave their unit; a unit without any is removed.
    """
    (out / "units").mkdir(parents=True, exist_ok=True)
    (out / "shards").mkdir(exist_ok=True)
    new = {entry.place: entry for entry in entries}
    names = []
    for name in _names_of(out, source):
        known = [new.pop(old.place) for old in read_unit(out, name).entries if old.place in new]
        if known:
            _write_unit(out, Unit(name, source, str(origin.resolve()), known))
            names.append(name)
        else:
            UnitFiles(out, name).remove()
    last = max((int(name.rpartition("-")[2]) for name in names), default=0)
    for number, part in enumerate(_parts(new.values()), start=last + 1):
        names.append(f"{source}-{number:05d}")
        _write_unit(out, Unit(names[-1], source, str(origin.resolve()), part))
    return names


def _parts(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Cut in parts of some size; what is read in one go (`Entry.part`) is not divided."""
    part: list[Entry] = []
    n_bytes = 0
    for entry in entries:
        is_full = len(part) >= _MOST_FILES or n_bytes + entry.n_bytes > _MOST_BYTES
        if part and is_full and (entry.part is None or entry.part != part[-1].part):
            yield part
            part, n_bytes = [], 0
        part.append(entry)
        n_bytes += entry.n_bytes
    if part:
        yield part


def _names_of(out: Path, source: str) -> list[str]:
    return [name for name in unit_names(out) if name.rpartition("-")[0] == source]


def _origins(out: Path) -> dict[str, str]:
    """Each source that was prepared into this folder, and where it lay."""
    first = {name.rpartition("-")[0]: name for name in reversed(unit_names(out))}
    return {source: read_unit(out, name).origin for source, name in first.items()}


def _as_json(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in zip(_FIELDS, _values(entry), strict=True) if value is not None}


def _write_unit(out: Path, unit: Unit) -> None:
    spec = {"source": unit.source, "origin": unit.origin, "entries": list(map(_as_json, unit.entries))}
    path = UnitFiles(out, unit.name).spec
    text = json.dumps(spec, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_lines(path, [text])
