"""What was measured of each recording: kept as a line of JSON as soon as it is known, so that nothing is lost."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError

Codes = NDArray[np.uint16]
Envelope = NDArray[np.int8]


@dataclass(frozen=True)
class Row:
    """One recording's scores."""

    id: str
    dataset: str
    language: str | None
    speaker: str | None
    seconds: float
    scores: dict[str, dict[str, float]]  # by system and metric; NaN: not defined here
    n_bits: dict[str, int]  # by system, of those that have bits
    codes: Codes  # [K, T]
    envelope: Envelope  # [E, T], of the original, as `probe.envelope` gives it
    n_equal_codes: tuple[int, ...] | None = None  # of each book, beside the other checkpoint
    has_transcript: bool = False  # to count word errors by; else what the recogniser reads from the original

    def to_line(self) -> str:
        """One line of JSON, the newline included."""
        scores = {system: {k: _to_json(v) for k, v in values.items()} for system, values in self.scores.items()}
        tables = {"codes": _pack(self.codes.astype("<u2")), "envelope": _pack(self.envelope)}
        record = {**vars(self), "scores": scores, **tables}
        return json.dumps(record, ensure_ascii=False) + "\n"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        tables = {
            "codes": _unpack(record["codes"], "<u2").astype(np.uint16),
            "envelope": _unpack(record["envelope"], "i1"),
        }
        scores = {
            s: {k: math.nan if v is None else v for k, v in values.items()} for s, values in record["scores"].items()
        }
        equal = record["n_equal_codes"]
        return cls(**{**record, **tables, "scores": scores, "n_equal_codes": tuple(equal) if equal else None})


class RowFile:
    """The rows of an unfinished report. The first line says what they were measured with; a line that a kill cut short
    is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, settings: dict[str, Any]) -> None:
        """Forget what is there."""
        self.path.write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def settings(self) -> dict[str, Any] | None:
        """What the rows were measured with; None if there are none."""
        if not self.path.is_file():
            return None
        with self.path.open(encoding="utf-8") as file:
            first = file.readline()
        try:
            found: dict[str, Any] = json.loads(first)
        except ValueError:
            raise CodecctlError(f"{self.path}: damaged at its start; remove it and measure anew") from None
        return found

    def rows(self) -> Iterator[Row]:
        self._drop_broken_end()
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for number, line in enumerate(file, start=2):
                try:
                    yield Row.from_record(json.loads(line))
                except (ValueError, KeyError, TypeError, zlib.error):
                    raise CodecctlError(f"{self.path}, line {number}: damaged; remove the line or the file") from None

    def append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.to_line())

    def _drop_broken_end(self) -> None:
        with self.path.open("r+b") as file:
            content_end = file.seek(0, 2)
            while content_end:
                step = min(65536, content_end)
                file.seek(content_end - step)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    file.truncate(content_end - step + newline + 1)
                    return
                content_end -= step


def _to_json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _pack(table: NDArray[Any]) -> dict[str, Any]:
    return {"rows": len(table), "packed": base64.b64encode(zlib.compress(table.tobytes())).decode()}


def _unpack(record: dict[str, Any], kind: str) -> NDArray[Any]:
    packed = zlib.decompress(base64.b64decode(record["packed"]))
    return np.frombuffer(packed, kind).reshape(record["rows"], -1)
