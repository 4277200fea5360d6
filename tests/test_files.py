"""A reader sees the old file or the new one, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codecctl.files import new_folder, partial_path, remove_partials, replacing, to_json, write_json
from codecctl.parsing import read_json


@pytest.mark.parametrize("durable", [False, True])
def test_replacing_publishes_at_the_end_of_the_block(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, durable=durable) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_keeps_the_old_file_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught, replacing(path) as partial:
        partial.write_text("new")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pass
    own = partial_path(tmp_path / "a.npy").name
    names = {
        "dead": own.replace(f".{os.getpid()}.", f".{process.pid}."),
        "alive": own.replace(f".{os.getpid()}.", f".{os.getppid()}."),
        "elsewhere": re.sub(r"\.[0-9a-f]{8}\.\d+\.partial", f".01234567.{process.pid}.partial", own),
        "elsewhere, long ago": re.sub(r"\.[0-9a-f]{8}\.\d+\.partial", ".76543210.1.partial", own),
        "somebody's": ".x.partial.txt",
    }
    for name in names.values():
        (tmp_path / name).write_text("")
    os.utime(tmp_path / names["elsewhere, long ago"], (0, 0))
    whole_folder = tmp_path / names["dead"].replace(".a.npy.", ".a.")
    whole_folder.mkdir()
    (whole_folder / "model.safetensors").write_text("")
    remove_partials(tmp_path)
    left = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert left == {"alive", "elsewhere", "somebody's"}
    assert not whole_folder.exists()


def test_a_long_name_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / (250 * "n")
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def test_names_that_are_not_utf8_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write_json(tmp_path / "a.json", {"name": name, "nan": math.nan})
    assert read_json(tmp_path / "a.json", dict) == {"name": name, "nan": None}
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["name"] == name


def test_a_file_system_without_fsync_of_folders_is_logged_once(tmp_path: Path, network_folder: Path) -> None:
    script = "import sys; from pathlib import Path; from codecctl.files import write_json\n"
    script += "for n in range(3): write_json(Path(sys.argv[1], f'{n}.json'), {})"
    environment = {**os.environ, "LD_PRELOAD": str(network_folder), "NO_DIRSYNC": "1"}
    command = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(list(tmp_path.glob("*.json"))) == 3
    assert done.stderr.count("\n") == 1
    assert "fsync of a folder fails on this file system (Invalid argument)" in done.stderr


def test_replacing_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass


def test_json_has_null_for_numbers_that_json_does_not_have() -> None:
    record = {"a": [math.nan, 1.5, (math.inf, True)], "b": {"c": -math.inf, "d": "\udcff"}, "e": None}
    assert to_json(record) == r'{"a": [null, 1.5, [null, true]], "b": {"c": null, "d": "\udcff"}, "e": null}'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_names_the_new_folder_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "hf"

    def write() -> None:
        with new_folder(folder) as partial:
            (partial / "model").symlink_to("/dev/full")
            (partial / "model").write_text("weights")

    with pytest.raises(OSError, match="hf") as full:
        write()
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(folder))
    assert not any(tmp_path.iterdir())
