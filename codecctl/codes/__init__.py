"""Codes of a corpus for language models: as data sets, and in the arrangements that models take."""

from codecctl.codes.dataset import CodeDataset, CodesItem, CodeStream, collate
from codecctl.codes.patterns import delay, flatten, from_unigrams, n_whole_frames, to_unigrams, undelay, unflatten

__all__ = [
    "CodeDataset",
    "CodeStream",
    "CodesItem",
    "collate",
    "delay",
    "flatten",
    "from_unigrams",
    "n_whole_frames",
    "to_unigrams",
    "undelay",
    "unflatten",
]
