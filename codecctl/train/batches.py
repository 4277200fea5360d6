"""The crops of each step, cut ahead of their use, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor

from codecctl.config.schema import Config
from codecctl.data.crops import Crops, prefetch
from codecctl.train.device import pinned, sent


def batches_from(
    first_step: int, stop_step: int, crops: Crops, config: Config, fabric: Fabric
) -> Iterator[list[Tensor]]:
    """This rank's crops of each step up to `stop_step`: `accumulate` batches [B, 1, L] on the device."""
    settings, n_workers = config.train, config.data.n_workers
    cut = partial(crops.array, batch_size=settings.n_crops, rank=fabric.global_rank, n_ranks=fabric.world_size)
    in_processes = crops.are_augmented and n_workers > 1
    with prefetch(cut, first_step, n_workers, in_processes=in_processes) as prefetched:
        for step, array in prefetched:
            audio = pinned(torch.from_numpy(array), fabric.device)
            yield [sent(batch, fabric.device) for batch in audio.chunk(settings.accumulate)]
            if step + 1 >= stop_step:
                return
