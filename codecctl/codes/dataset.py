"""Codes of a corpus as torch data sets: memory-mapped, `[K, T]` int64, with what is known of each utterance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, Subset, get_worker_info

from codecctl.codes.folder import SPLIT_NUMBERS, CodedUtterance, read_complete, read_index
from codecctl.codes.shards import ShardReader
from codecctl.data import Split
from codecctl.errors import CodecctlError, UsageError
from codecctl.parsing import as_type, parse_json


@dataclass(frozen=True)
class CodesItem:
    """One utterance of a corpus."""

    codes: Tensor  # [K, T] int64
    about: CodedUtterance


class CodeDataset(Dataset[CodesItem]):
    """The utterances of a folder that `codecctl encode` wrote, or those of one split of it.

    `n_codebooks` takes the first ones only. Memory is a number for each utterance; codes and metadata are read when an
    item is taken. Items have different lengths, so a `DataLoader` needs a `collate_fn`, as `collate` with a `pad`.
    Raises `CodecctlError` for a folder that is not complete or holds no such utterance.
    """

    def __init__(self, folder: str | Path, split: Split | None = None, n_codebooks: int | None = None) -> None:
        self.folder = Path(folder)
        self._open()
        if split not in SPLIT_NUMBERS:
            raise UsageError(f"split {split!r}: expected 'train', 'validation' or None")
        if n_codebooks is not None and not 1 <= n_codebooks <= self.about.n_codebooks:
            raise UsageError(f"{folder}: n_codebooks must be 1 to {self.about.n_codebooks}, got {n_codebooks}")
        self._n_codebooks = n_codebooks
        everything = np.arange(len(self._rows))
        self._numbers = everything if split is None else everything[self._rows["split"] == SPLIT_NUMBERS[split]]
        if not len(self._numbers):
            raise CodecctlError(f"{folder}: no utterances in the {split} split")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of the codebooks that items have."""
        return self.about.codebook_sizes[: self._n_codebooks]

    @property
    def n_frames(self) -> np.ndarray:
        """[n_utterances], of each item: for batches of equal size."""
        lengths: np.ndarray = self._rows["n_frames"][self._numbers]
        return lengths

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> CodesItem:
        if not -len(self) <= number < len(self):
            raise IndexError(number)  # ends the iteration of a sequence
        place = int(self._numbers[number])
        row = self._rows[place]
        if row["shard"] >= len(self.about.shards):
            raise self._misfit()
        shard = self.about.shards[int(row["shard"])]
        codes = self._reader.codes(shard, int(row["first_frame"]), int(row["n_frames"]), self._n_codebooks)
        return CodesItem(torch.from_numpy(codes.astype(np.int64)), self._utterance(place))

    def __getstate__(self) -> dict[str, object]:
        """For the processes of a `DataLoader`, which open the files anew."""
        keys = ("folder", "about", "_n_codebooks", "_numbers")
        return {key: getattr(self, key) for key in keys}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        shards = self.about.shards  # their names follow from their content
        self._open()
        if self.about.shards != shards:
            raise CodecctlError(f"{self.folder}: was changed by an encode since the data set was made; make it again")

    def _open(self) -> None:
        """The files stay open: what an `encode` adds later is for the next data set."""
        self.about = read_complete(self.folder)
        self._rows, self._reader = read_index(self.folder, self.about), ShardReader(self.folder, self.about)
        path = self.folder / "manifest.jsonl"
        try:
            self._manifest = open(path, "rb")  # noqa: SIM115  closed with the data set
        except OSError as error:
            raise CodecctlError(f"{path}: cannot be read ({error.strerror})") from None

    def _utterance(self, place: int) -> CodedUtterance:
        """The line of the manifest that ends where the next one starts; processes may share the open file."""
        where, start = self._manifest.name, int(self._rows[place]["line"])
        is_last, n_bytes = place + 1 == len(self._rows), os.fstat(self._manifest.fileno()).st_size
        end = n_bytes if is_last else int(self._rows[place + 1]["line"])
        if not start < end <= n_bytes:
            raise self._misfit()
        line = os.pread(self._manifest.fileno(), end - start, start)
        return as_type(CodedUtterance, parse_json(line, where), where)

    def _misfit(self) -> CodecctlError:
        return CodecctlError(f"{self.folder / (self.about.index or '')}: damaged; run encode again")


class CodeStream(IterableDataset[CodesItem]):
    """The items of a `CodeDataset` or of a `Subset` of it, each once an epoch over all ranks and workers of a
    `DataLoader`. The length is the number of items of this rank; `len(DataLoader(...))` counts its batches exactly with
    one worker at most, as each worker has a last batch of its own, which may be short or dropped.

    Ranks are those of `torch.distributed` where that is initialised, else given. With a `seed` the order is shuffled,
    anew after each `set_epoch`. The numbers of items of two ranks differ by one at most; `drop_last` makes them equal.
    """

    def __init__(
        self,
        dataset: CodeDataset | Subset[CodesItem],
        *,
        seed: int | None = None,
        rank: int | None = None,
        n_ranks: int | None = None,
        drop_last: bool = False,
    ) -> None:
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if is_distributed else 0
        self.n_ranks = n_ranks if n_ranks is not None else torch.distributed.get_world_size() if is_distributed else 1
        if not 0 <= self.rank < self.n_ranks:
            raise UsageError(f"rank {self.rank} of {self.n_ranks}: expected 0 to {self.n_ranks - 1}")
        self.dataset, self.seed, self.drop_last = dataset, seed, drop_last
        # Shared, since workers may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order follows; the same on all ranks. Also for persistent workers of a `DataLoader`."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(range(self.rank, self._n_shared, self.n_ranks))

    @property
    def _n_shared(self) -> int:
        """Items that the ranks share."""
        n_items = len(self.dataset)
        return n_items - n_items % self.n_ranks if self.drop_last else n_items

    def __iter__(self) -> Iterator[CodesItem]:
        order = np.arange(len(self.dataset))
        if self.seed is not None:
            order = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch])).permutation(len(order))
        order = order[: self._n_shared]
        worker = get_worker_info()
        number, n_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for item in order[self.rank :: self.n_ranks][number::n_workers]:
            yield self.dataset[int(item)]


def collate(items: Sequence[CodesItem | Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """Items, or the codes [K, T] of each in any arrangement -> codes [B, K, longest T], which `pad` fills on the right,
    and the lengths [B]: for a `DataLoader`, `collate_fn=functools.partial(collate, pad=...)`."""
    codes = [item if isinstance(item, Tensor) else item.codes for item in items]
    lengths = torch.tensor([each.shape[-1] for each in codes])
    return pad_sequence([each.mT for each in codes], batch_first=True, padding_value=pad).mT, lengths
