"""The container `parquet`: a row an utterance, its codes as a list of K lists of T numbers (pyarrow, the extra `data`).

The header is the value of the file's key `codecctl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.bitstream import Codes
from codecctl.codes.container import FACTS, ShardContainer, ShardHeader, damaged
from codecctl.codes.folder import Coded
from codecctl.errors import CodecctlError, UsageError

_KEY = b"codecctl"
_NUMBERS = {"n_frames": "int64", "n_samples": "int64", "seconds": "float64"}  # the other facts are text


def _write(path: Path, header: ShardHeader, utterances: Sequence[Coded]) -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = {name: getattr(arrow, _NUMBERS.get(name, "string"))() for name in FACTS}
    columns = {name: [_storable(record[name]) for record, _ in utterances] for name in FACTS}
    fields = list(kinds.items())
    fields.append(("codes", arrow.list_(arrow.list_(arrow.uint16()))))
    schema = arrow.schema(fields, metadata={_KEY: header.model_dump_json().encode()})
    table = arrow.table({**columns, "codes": [list(codes) for _, codes in utterances]}, schema=schema)
    with path.open("wb") as file:  # by name pyarrow opens UTF-8 only
        parquet.write_table(table, file)


def _storable(value: Any) -> Any:
    """Text in Parquet is UTF-8, which names of files may not be; their other bytes become escapes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _read(path: Path) -> tuple[ShardHeader, list[Codes]]:
    check_installed()
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file).read(["codes"])
        header = ShardHeader.parse(table.schema.metadata[_KEY], path)
        return header, [np.array(codes.as_py(), np.uint16) for codes in table["codes"]]
    except FileNotFoundError:
        raise CodecctlError(f"{path}: is missing; run the same `codecctl encode` again") from None
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, " ".join(str(error).split())) from None


def check_installed() -> None:
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError('--format parquet needs pyarrow: pip install "codecctl[data]"') from None


PARQUET = ShardContainer(".parquet", _write, _read, check_installed)
