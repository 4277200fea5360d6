"""No group is in both splits, none moves when data is added, and no split is empty without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codecctl.data.prepare.merge import Group, assign_splits

groups = st.dictionaries(st.text(min_size=1), st.builds(Group, st.sampled_from(["te", "en", None]), st.floats(0.1, 99)))


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
