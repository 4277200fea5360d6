"""The scores of each utterance, kept as lines of JSON, so that an interrupted evaluation can be continued."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError
from codecctl.files import to_json
from codecctl.parsing import parse_json

Codes = NDArray[np.uint16]
Envelope = NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One utterance's scores."""

    id: str
    dataset: str
    language: str | None
    speaker: str | None
    seconds: float
    scores: dict[str, dict[str, float]]  # by system and metric; NaN: undefined
    n_bits: dict[str, int]  # by system, of those that have a bitrate
    snr_bounds_db: tuple[float, float]  # of the codec's bits, as `bound.snr_bounds_db` returns them
    codes: Codes  # [K, T]
    envelope: Envelope  # [E, T], of the original, as `probe.envelope` returns it; E may be 0
    n_equal_codes: tuple[int, ...] | None = None  # by codebook, against the other checkpoint
    has_text: bool = False  # word errors count against the transcript, not the original as recognised

    def to_line(self) -> str:
        """One line of JSON, the newline included."""
        tables = {"codes": _pack(self.codes.astype("<u2")), "envelope": _pack(self.envelope)}
        return to_json({**vars(self), **tables}) + "\n"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The row of a line's JSON object. Raises `ValueError`, `KeyError`, `TypeError` or `zlib.error`."""
        equal = record["n_equal_codes"]
        low, high = (_number(value) for value in record["snr_bounds_db"])
        changed = {
            "codes": _unpack(record["codes"], "<u2").astype(np.uint16),
            "envelope": _unpack(record["envelope"], "i1"),
            "scores": {s: {k: _number(v) for k, v in values.items()} for s, values in record["scores"].items()},
            "snr_bounds_db": (low, high),
            "n_equal_codes": tuple(equal) if equal else None,
        }
        return cls(**{**record, **changed})


class RowFile:
    """The rows of an unfinished report. The first line holds the settings; an incomplete last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, settings: dict[str, Any]) -> None:
        """Begin a new file."""
        self.path.write_text(to_json(settings) + "\n", encoding="utf-8")

    def settings(self) -> dict[str, Any] | None:
        """The settings of the rows; None if there is no file. Raises `CodecctlError` for a damaged one."""
        if not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            try:
                return parse_json(file.readline(), f"{self.path}, line 1")
            except CodecctlError as error:
                raise CodecctlError(f"{error}; remove it and measure anew") from None

    def rows(self) -> Iterator[Row]:
        """The complete rows. Raises `CodecctlError` that names a damaged line."""
        with self.path.open("r+b") as file:
            file.readline()
            for number, line in enumerate(iter(file.readline, b""), start=2):
                if not line.endswith(b"\n"):  # the process that wrote it was killed
                    file.truncate(file.tell() - len(line))
                    return
                try:
                    yield Row.from_record(parse_json(line, str(self.path)))
                except (CodecctlError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
                    raise CodecctlError(f"{self.path}, line {number}: damaged; remove the line or the file") from None

    def append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.to_line())


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _pack(table: NDArray[Any]) -> dict[str, Any]:
    return {"rows": len(table), "packed": base64.b64encode(zlib.compress(table.tobytes())).decode()}


def _unpack(record: dict[str, Any], kind: str) -> NDArray[Any]:
    packed = zlib.decompress(base64.b64decode(record["packed"]))
    return np.frombuffer(packed, kind).reshape(record["rows"], -1)
