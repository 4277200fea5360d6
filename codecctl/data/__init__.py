"""Corpora, prepared speech, and the crops that training sees."""

from typing import Literal, get_args

SAMPLE_RATE = 16000  # Hz, of all prepared audio

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)

StatedSplit = Literal["train", "validation", "test"]
"""What a list says of a recording; `test` is neither trained nor validated on."""
