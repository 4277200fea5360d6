"""No group is in both splits, none moves when data is added, and no split is empty without need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from codecctl.config.schema import DataConfig
from codecctl.data import SPLITS
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare import prepare
from codecctl.data.prepare.merge import Group, assign_splits
from codecctl.errors import CodecctlError

groups = st.dictionaries(st.text(min_size=1), st.builds(Group, st.sampled_from(["te", "en", None]), st.floats(0.1, 99)))


@pytest.mark.slow
@given(groups, groups, st.integers(0, 3), st.sampled_from([0.05, 0.5, 1.0]))
def test_new_data_moves_no_group(old: dict[str, Group], new: dict[str, Group], seed: int, share: float) -> None:
    before = assign_splits(old, seed=seed, share=share)
    after = assign_splits({**new, **old}, seed=seed, share=share, before=before)
    assert all(after[name] == split for name, split in before.items())


@given(groups, st.integers(0, 3), st.sampled_from([0.01, 0.05, 1.0]))
def test_every_language_and_both_splits_have_groups(found: dict[str, Group], seed: int, share: float) -> None:
    splits = assign_splits(found, seed=seed, share=share)
    if len(found) >= 2:
        assert set(splits.values()) == {"train", "validation"}
    if len(found) >= 2 and share < 1:
        for language in ("te", "en", None):
            names = [name for name in found if found[name].language == language]
            assert len(names) < 2 or any(splits[name] == "validation" for name in names)


def test_share_of_validation_is_about_the_configured_one() -> None:
    many = {f"speaker {number}": Group("en", 1.0) for number in range(4000)}
    chosen = {name for name, split in assign_splits(many, seed=1, share=0.05).items() if split == "validation"}
    assert 140 < len(chosen) < 260
    assert chosen != {name for name, split in assign_splits(many, seed=2, share=0.05).items() if split == "validation"}
    assert set(assign_splits(many, seed=1, share=0).values()) == {"train"}


def write_list(path: Path, rows: list[tuple[str, str | None]]) -> Path:
    """A list of recordings, each with a speaker and, unless None, a split."""
    lines = []
    for speaker, split in rows:
        number = len(list(path.parent.glob("*.wav")))
        samples = 0.1 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(path.parent / f"{number}.wav", samples, 16_000)
        lines.append({"path": f"{number}.wav", "speaker": speaker} | ({"split": split} if split else {}))
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def prepared(source: Path, share: float = 0.2) -> list[str]:
    """The split of each recording in the order of their numbers."""
    out = source.parent / "out"
    prepare([source], out, DataConfig(min_seconds=0.1, validation_share=share))
    splits = {
        int(Path(utterance.source).stem): str(utterance.split) for utterance in read_manifest(out / "manifest.jsonl")
    }
    return [splits.get(number, "none") for number in range(max(splits) + 1)]


def test_splits_that_a_list_states_are_kept(tmp_path: Path) -> None:
    names = ["train-clean-100", "dev", "Validation", "TRAIN", "test-other", "train", "val"]
    rows = [(f"speaker {number % 3}", name) for number, name in enumerate(names)]
    found = prepared(write_list(tmp_path / "list.jsonl", rows), share=0.9)
    assert found == ["train", "validation", "validation", "train", "none", "train", "validation"]
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(each["source"], each["reason"]) for each in rejected] == [("4.wav", "test data of its list")]


def test_recordings_without_a_split_follow_their_speaker(tmp_path: Path) -> None:
    stated = [("ann", "train"), ("bob", "validation")]
    found = prepared(write_list(tmp_path / "list.jsonl", [*stated, *[("bob", None), ("ann", None)] * 3]), share=0.5)
    assert found == ["train", "validation", *["validation", "train"] * 3]


def test_list_of_training_data_alone_is_split(tmp_path: Path) -> None:
    found = prepared(write_list(tmp_path / "a.jsonl", [(f"speaker {number}", "train") for number in range(4)]))
    assert {*found} == {*SPLITS}
    assert prepared(write_list(tmp_path / "b.jsonl", [("eve", "dev")])) == ["train"] * 4 + ["validation"]


def test_split_of_another_name_is_refused(tmp_path: Path) -> None:
    source = write_list(tmp_path / "list.jsonl", [("ann", "train"), ("bob", "fold 3")])
    with pytest.raises(CodecctlError, match=r"^1\.wav: split 'fold 3' in its list is none of train, validation"):
        prepared(source)
