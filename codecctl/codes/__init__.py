"""Codes of a corpus for language models: as data sets, and in the arrangements that models take."""

from codecctl.codes.dataset import CodeDataset, CodesItem, CodeStream
from codecctl.codes.patterns import delay, flatten, from_unigrams, to_unigrams, undelay, unflatten

__all__ = [
    "CodeDataset",
    "CodeStream",
    "CodesItem",
    "delay",
    "flatten",
    "from_unigrams",
    "to_unigrams",
    "undelay",
    "unflatten",
]
