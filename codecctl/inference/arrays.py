"""Files of codes and what their first bytes tell; `.npy` in and out. No torch here."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.bitstream import Codes
from codecctl.errors import CodecctlError

_NPY_MAGIC = b"\x93NUMPY"


def first_bytes(path: str | Path, name: str) -> bytes:
    """The start of a file, by which it is recognised. Raises `CodecctlError` if there is no file or nothing in it."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise CodecctlError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise CodecctlError(f"{name}: is a folder, expected a file") from None
    if not start:
        raise CodecctlError(f"{name}: is empty")
    return start


def is_npy(start: bytes) -> bool:
    return start.startswith(_NPY_MAGIC)


def load_npy(path: str | Path, name: str) -> np.memmap[Any, Any]:
    """The array of a `.npy` file, mapped, so that a header that lies allocates nothing. Raises `CodecctlError`."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy lets through whatever Python's parser says of a broken header
        raise CodecctlError(f"{name}: cannot be read as .npy ({' '.join(str(error).split())})") from None
    n_more = os.path.getsize(path) - array.offset - array.nbytes
    if n_more > 0:
        raise CodecctlError(f"{name}: {n_more} bytes too many after its array")
    return array


def npy_bytes(codes: Codes) -> bytes:
    """The array as the content of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    return buffer.getvalue()
