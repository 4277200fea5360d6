"""New folders, written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from codecctl.files import new_folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "hf"

    def write() -> None:
        with new_folder(folder) as partial:
            (partial / "model").symlink_to("/dev/full")
            (partial / "model").write_text("weights")

    with pytest.raises(OSError, match="hf") as full:
        write()
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(folder))
    assert not any(tmp_path.iterdir())
