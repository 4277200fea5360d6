"""The measured speed of a corpus job."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from codecctl.codes.timing import corpus_throughput
from codecctl.inference.find import find_checkpoint

pytestmark = pytest.mark.slow


def test_a_corpus_of_copies_is_encoded_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert corpus_throughput(find_checkpoint(None), "cpu", n_copies=1) > 1  # faster than real time
    assert not list(tmp_path.iterdir())
