"""Codes as torch data sets."""

from __future__ import annotations

import pickle
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from codecctl.codes import CodeDataset, CodesItem, CodeStream, collate
from codecctl.codes.folder import read_manifest
from codecctl.codes.job import encode_corpus
from codecctl.errors import CodecctlError, UsageError
from tests.codes.test_job import codes_of


def ids(items: object) -> list[str]:
    return [item.about.id for item in items]  # type: ignore[attr-defined]


def unbatched(batch: list[CodesItem]) -> list[CodesItem]:
    return batch


def test_items_are_codes_with_what_is_known_of_them(corpus: Path) -> None:
    dataset, expected, utterances = CodeDataset(corpus), codes_of(corpus), list(read_manifest(corpus))
    assert [item.about for item in dataset] == utterances
    for item in dataset:
        assert item.codes.dtype == torch.int64
        assert np.array_equal(item.codes, expected[item.about.id])
    assert dataset.n_frames.tolist() == [each.n_frames for each in utterances]
    assert dataset[-1].about == utterances[-1]


def test_a_split_and_some_codebooks(corpus: Path) -> None:
    everything = CodeDataset(corpus)
    parts = {split: CodeDataset(corpus, split, n_codebooks=2) for split in ("train", "validation")}
    assert len(parts["train"]) + len(parts["validation"]) == len(everything)
    for split, dataset in parts.items():
        assert {item.about.split for item in dataset} == {split}
        assert dataset[0].codes.shape[0] == 2
        assert dataset.codebook_sizes == (64, 16)
        assert torch.equal(dataset[0].codes, next(i for i in everything if i.about == dataset[0].about).codes[:2])
    with pytest.raises(UsageError, match="n_codebooks must be 1 to 3, got 4"):
        CodeDataset(corpus, n_codebooks=4)
    with pytest.raises(UsageError, match="split 'test': expected 'train', 'validation' or None"):
        CodeDataset(corpus, "test")  # type: ignore[arg-type]


def test_a_copy_in_another_process_reads_the_same(corpus: Path) -> None:
    dataset = CodeDataset(corpus, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1].codes, dataset[1].codes)
    assert copy[1].about == dataset[1].about


def test_recordings_that_are_added_later_change_no_open_data_set(
    folders: list[Path], model: Path, tmp_path: Path
) -> None:
    encode_corpus(folders[1:2], tmp_path, model)
    dataset = CodeDataset(tmp_path)
    before = ids(dataset)
    encode_corpus(folders[:1], tmp_path, model)
    assert ids(dataset) == before
    assert len(CodeDataset(tmp_path)) == 12
    with pytest.raises(CodecctlError, match="was changed by an encode since the data set was made"):
        pickle.loads(pickle.dumps(dataset))


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_and_workers_share_an_epoch(corpus: Path, drop_last: bool) -> None:
    dataset = CodeDataset(corpus)
    shares = []
    for rank in range(5):
        stream = CodeStream(dataset, seed=3, rank=rank, n_ranks=5, drop_last=drop_last)
        loader = DataLoader(stream, batch_size=2, num_workers=2 if rank == 0 else 0, collate_fn=unbatched)
        shares.append(ids(item for batch in loader for item in batch))
        assert len(stream) == len(shares[-1])
    together = [name for share in shares for name in share]
    assert len(set(together)) == len(together) == (10 if drop_last else 12)
    assert max(map(len, shares)) - min(map(len, shares)) <= (not drop_last)


@pytest.mark.filterwarnings("error:Length of IterableDataset")
def test_a_loader_of_a_stream_has_a_length(corpus: Path) -> None:
    stream = CodeStream(CodeDataset(corpus), seed=3, rank=1, n_ranks=5)
    for size, n_workers, expected in ((None, 2, 3), (1, 2, 3), (2, 0, 2)):
        loader = DataLoader(stream, batch_size=size, num_workers=n_workers, collate_fn=unbatched)
        assert len(loader) == expected == sum(1 for _ in loader)


def test_a_loader_that_skips_goes_on_where_another_stopped(corpus: Path) -> None:
    stream = CodeStream(Subset(CodeDataset(corpus), range(1, 12)), seed=3)
    made = [DataLoader(stream, batch_size=2, num_workers=2, collate_fn=unbatched) for _ in range(2)]
    everything = [ids(batch) for batch in made[0]]
    assert len({name for batch in everything for name in batch}) == len(stream) == 11
    assert [ids(batch) for batch in islice(made[1], 2, None)] == everything[2:]


def test_a_batch_is_padded_on_the_right(corpus: Path) -> None:
    dataset = CodeDataset(corpus)
    (codes, lengths), *_ = DataLoader(dataset, batch_size=3, collate_fn=partial(collate, pad=-7))
    assert codes.shape == (3, 3, max(lengths))
    for number, (each, length) in enumerate(zip(codes, lengths, strict=True)):
        assert torch.equal(each[:, :length], dataset[number].codes)
        assert each[:, length:].eq(-7).all()
    again, same = collate([dataset[number].codes for number in range(3)], -7)
    assert torch.equal(again, codes)
    assert torch.equal(same, lengths)


def test_each_epoch_has_an_order_of_its_own(corpus: Path) -> None:
    stream = CodeStream(CodeDataset(corpus), seed=3)
    first = ids(stream)
    assert ids(stream) == first
    stream.set_epoch(1)
    assert ids(stream) != first
    assert sorted(ids(stream)) == sorted(first)
    assert ids(CodeStream(CodeDataset(corpus))) == [each.id for each in read_manifest(corpus)]


def test_workers_that_stay_follow_the_epoch(corpus: Path) -> None:
    stream = CodeStream(CodeDataset(corpus), seed=3)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        assert ids(loader) == ids(stream)


def test_a_folder_without_codes_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match="holds no codes; make some with `codecctl encode"):
        CodeDataset(tmp_path)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        CodeStream.__init__(CodeStream.__new__(CodeStream), None, rank=2, n_ranks=2)  # type: ignore[arg-type]
