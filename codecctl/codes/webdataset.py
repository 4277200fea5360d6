"""The container `webdataset`: tar files as the package webdataset reads them, an `.npy` and a `.json` an utterance.

The header is the member `__codes__`, which webdataset leaves out. The package is not needed here.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codecctl.bitstream import Codes
from codecctl.codes.container import FACTS, ShardContainer, ShardHeader, reading
from codecctl.codes.folder import Coded
from codecctl.inference.containers import npy_bytes

_HEADER = "__codes__"


def _write(path: Path, header: ShardHeader, utterances: Sequence[Coded]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, _HEADER, header.model_dump_json())
        for number, (record, codes) in enumerate(utterances):
            key = f"{header.checksum}-{number:06d}"
            _add(tar, f"{key}.json", json.dumps({name: record[name] for name in FACTS}, ensure_ascii=False))
            _add(tar, f"{key}.npy", npy_bytes(np.ascontiguousarray(codes)))


def _add(tar: tarfile.TarFile, name: str, content: str | bytes) -> None:
    """Without times and owners: the same codes are the same file."""
    data = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _read(path: Path) -> tuple[ShardHeader, list[Codes]]:
    header, codes = None, []
    with reading(path, tarfile.TarError, EOFError), tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.offset_data + member.size > path.stat().st_size:  # also of a sparse one, as large as it would be
                raise ValueError(f"{member.name} is longer than the file")
            file = tar.extractfile(member)
            content = file.read() if file else b""
            if member.name == _HEADER:
                header = content
            elif member.name.endswith(".npy"):
                codes.append(_load(content))
    return ShardHeader.parse(header, path), codes


def _load(content: bytes) -> Codes:
    try:
        codes: Codes = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy passes on whatever Python's parser raises for a broken header
        raise ValueError(str(error)) from None
    return codes


WEBDATASET = ShardContainer(".tar", _write, _read)
