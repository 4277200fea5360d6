"""The jobs that are killed: each a command on inputs of seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from codecctl.cli.main import run
from codecctl.config.load import load_config
from codecctl.data.download.corpus import read_complete
from codecctl.data.download.recipes import read_recipes
from codecctl.data.download.run import download
from codecctl.data.prepare import prepare
from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from codecctl.model.codec import Codec
from tests.conftest import CLIPS, write_audio
from tests.data.download.test_run import POLICY, SLR66, TIMING, at
from tests.data.server import FaultyServer
from tests.kills.harness import Job
from tests.train.compare import assert_same_run, saves
from tests.train.forks import fork_ranks
from tests.train.kills import clear_leftovers, run_or_resume
from tests.train.tiny import FEW_FRAMES, tiny_config, tiny_yaml

_VOLATILE = (".lease-*", "*.lock.json", "index.html", "settings.json")  # names of processes, times


@contextmanager
def jobs(folder: Path) -> Iterator[Mapping[str, Job]]:
    """All jobs, with their inputs in `folder` and a server that runs within."""
    torch.set_num_threads(1)
    audio, model = folder / "audio", folder / "model.pt"
    _write_audio(audio)
    config = tiny_config(folder / "prepared", *FEW_FRAMES)
    torch.manual_seed(0)
    write_checkpoint(model, config.model, Codec(config.model).state_dict())
    prepare([CLIPS], folder / "prepared", load_config("smoke").data)
    with FaultyServer() as server:
        made = [
            _command("prepare", lambda out: ["prepare", str(audio), "--out", str(out)]),
            _command(
                "encode", lambda out: ["encode", str(audio), "--out-dir", str(out), "--format", "cctl",
                                       "--checkpoint", str(model), "--device", "cpu"], wholes="*.cctl",
            ),
            _command(
                "encode a corpus", lambda out: ["encode", str(audio), str(folder / "prepared"), "--out-dir", str(out),
                                                "--format", "shards", "--workers", "1",
                                                "--checkpoint", str(model), "--device", "cpu"],
                wholes="*.safetensors",
            ),
            _command(
                "export", lambda out: ["export", str(model), "-o", str(out / "m.safetensors")], wholes="*.safetensors"
            ),
            _validation(model, audio),
            _download(server),
            _training(folder, 1),
            _training(folder, 2),
        ]  # fmt: skip
        yield {job.name: job for job in made}


def _write_audio(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for n in range(12):
        write_audio(folder / f"{n}.wav", draw.normal(0, 0.1, (1, 30_000 + n)).astype(np.float32), 16_000)


def tree(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """The files below a folder and their content, without those in which times and processes are written."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not any(path.match(volatile) for volatile in _VOLATILE)
    }


def _same_tree(folder: Path, straight: Path) -> None:
    found, expected = tree(folder), tree(straight)
    assert found.keys() == expected.keys(), f"only one has {sorted(found.keys() ^ expected.keys())}"
    for name, content in expected.items():
        assert found[name].replace(bytes(folder), bytes(straight)) == content, f"{name} has other content"


def _wholes(pattern: str) -> Callable[[Path, Path], None]:
    """What has its final name has its final content."""

    def check(folder: Path, straight: Path) -> None:
        expected = tree(straight)
        for name, content in tree(folder, pattern).items():
            is_final = not any(part.startswith(".") for part in Path(name).parts)
            assert not is_final or content == expected.get(name), f"{name} is not whole"

    return check


def _command(name: str, arguments: Callable[[Path], list[str]], wholes: str = "*.none") -> Job:
    return Job(name, lambda folder: run(arguments(folder)), _same_tree, _wholes(wholes))


def _validation(model: Path, audio: Path) -> Job:
    """`validate --continue`: each line of scores is that of a validation that was not killed."""

    def start(folder: Path) -> int:
        options = [
            "--data",
            str(audio),
            "--report",
            str(folder),
            "--limit",
            "6",
            "--continue",
            "--workers",
            "0",
            "--device",
            "cpu",
        ]
        return run(["validate", str(model), *options, "--set", "validate.metrics=[]"])

    def check(folder: Path, straight: Path) -> None:
        assert (folder / "index.html").is_file()
        mine, theirs = (sorted((path / "rows.jsonl").read_text().splitlines()[1:]) for path in (folder, straight))
        assert mine == theirs
        assert {path.name for path in folder.iterdir()} == {path.name for path in straight.iterdir()}

    return Job("validate --continue", start, check)


def _download(server: FaultyServer) -> Job:
    corpus = at({corpus.name: corpus for corpus in read_recipes()}["slr66-te"], server, files=SLR66)
    for resource in server.files.values():
        resource.bytes_per_second = 200_000

    def start(folder: Path) -> int:
        (outcome,) = download([corpus], folder, policy=POLICY, timing=TIMING)
        print(outcome.message)
        return int(outcome.state == "failed")

    def check(folder: Path, straight: Path) -> None:
        assert read_complete(folder / "slr66-te") is not None
        found, expected = ({k: v for k, v in tree(f).items() if "corpus.json" not in k} for f in (folder, straight))
        assert found == expected

    return Job("download", start, check, _wholes("*.wav"))


def _training(folder: Path, n_ranks: int) -> Job:
    changes = (*FEW_FRAMES, "train.n_steps=16", "train.log_every_steps=3", "train.validate_every_steps=7")
    own = folder / f"train-{n_ranks}"
    own.mkdir()
    config = str(tiny_yaml(own, folder / "prepared", *changes, "train.checkpoint_every_steps=2"))

    def start(run_folder: Path) -> int:
        """A kill ends the group, in which all ranks are. What is there before the first save is in the way of the next
        start, which says so."""
        clear_leftovers(run_folder / "run")
        ranks = fork_ranks(lambda rank: run_or_resume(config, run_folder / "run"), n_ranks)
        return int(any(_status(rank) for rank in ranks))

    def check(killed: Path, straight: Path) -> None:
        assert_same_run(straight / "run", killed / "run")
        assert saves(killed / "run") == saves(straight / "run")

    def whole(killed: Path, _: Path) -> None:
        for path in (killed / "run").glob("*.pt"):
            Checkpoint.read(path, with_training=True)

    return Job(f"train, {n_ranks} rank{'s' * (n_ranks > 1)}", start, check, whole)


def _status(child: int) -> int:
    import os

    return os.waitpid(child, 0)[1]
