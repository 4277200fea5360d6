"""Opens the audio of items, wherever it is: a file, a part of one, or a cell of a Parquet file."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from codecctl.audio.files import AudioReader
from codecctl.data.prepare.items import AudioItem
from codecctl.data.prepare.parquet import read_row_group
from codecctl.errors import CodecctlError


class ItemOpener:
    """Opens the items of a unit; keeps the row group that was read last. `partial` as for `AudioReader`."""

    def __init__(self, root: Path, *, partial: bool = False) -> None:
        self._root, self._partial = str(root), partial
        self._part: tuple[str, int] | None = None
        self._cells: list[tuple[bytes | None, str]] = []
        self.name = ""  # of the item opened last, as it starts the messages about it

    def open(self, item: AudioItem) -> AudioReader:
        self.name = item.place
        if item.fault:
            raise CodecctlError(item.fault)
        if item.part is None:
            # Text, since there may be a million files: pathlib takes as long as opening the file.
            path = os.path.join(self._root, item.file or item.place)
            return AudioReader(path, name=item.place, raw_rate=item.raw_rate, partial=self._partial)
        if item.part != self._part:
            self._cells = read_row_group(Path(self._root, item.part[0]), item.part[1], item.column or "")
            self._part = item.part
        data, file_name = self._cells[item.row or 0]
        if not data:
            raise CodecctlError("holds no audio: the bytes are missing")
        self.name += PurePath(file_name).suffix  # the reader goes by it where the bytes do not show the format
        return AudioReader(data, name=self.name, partial=self._partial)
