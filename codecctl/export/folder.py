"""Folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codecctl.errors import UsageError
from codecctl.files import partial_path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which becomes it when the block succeeds and is removed otherwise.

    Raises `UsageError` if `folder` exists and is not an empty folder, or the one that it is to be in does not.
    """
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {folder.parent}")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not empty; choose another name, or remove it")
    partial = partial_path(folder.absolute())
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    except OSError as error:  # a full disk gives no name, or that of a temporary file
        if error.errno in _NO_ROOM:
            error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
