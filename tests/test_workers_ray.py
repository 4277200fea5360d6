"""The same units on a Ray cluster of two nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from codecctl.codes.job import encode_corpus
from codecctl.config.schema import DataConfig
from codecctl.data.prepare import prepare
from codecctl.errors import CodecctlError
from codecctl.inference.load import save_codec
from codecctl.workers import run_units
from tests.conftest import TINY, lively

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    nodes.add_node(**small)
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()


def work(unit: int, *, folder: Path) -> int:
    time.sleep(0.05)  # so that one node alone does not do it all before the other wakes up
    (folder / str(unit)).write_text(ray.get_runtime_context().get_node_id())
    if unit == 13:
        raise CodecctlError("unit 13: bad luck")
    return unit * unit


@pytest.mark.slow
def test_every_unit_is_done_once_on_both_nodes(tmp_path: Path) -> None:
    found = dict(run_units(partial(work, folder=tmp_path), range(20, 50), executor="ray"))
    assert found == {unit: unit * unit for unit in range(20, 50)}
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 2


def test_an_error_comes_through_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match=r"^unit 13: bad luck$"):
        list(run_units(partial(work, folder=tmp_path), [12, 13], executor="ray"))


def test_prepare_gives_the_same_bytes(tmp_path: Path, speech_files: list[Path]) -> None:
    lists = [json.dumps({"audio_filepath": str(path)}) for path in speech_files]
    (tmp_path / "list.jsonl").write_text("\n".join(lists))
    contents = []
    for executor in ("processes", "ray"):
        out = tmp_path / executor
        prepare([tmp_path / "list.jsonl"], out, DataConfig(), executor=executor)
        files = [path for path in out.rglob("*") if path.is_file() and not {"units", ".jobs"} & set(path.parts)]
        contents.append({path.relative_to(out): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_encode_gives_the_same_bytes(tmp_path: Path, speech_files: list[Path]) -> None:
    save_codec(lively(TINY), tmp_path / "tiny.pt")
    contents = []
    for executor in ("processes", "ray"):
        out = tmp_path / executor
        encode_corpus(sorted({path.parent for path in speech_files}), out, tmp_path / "tiny.pt", executor=executor)
        files = [path for path in out.rglob("*") if path.is_file() and not {"units", ".jobs"} & set(path.parts)]
        contents.append({path.relative_to(out): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 7
