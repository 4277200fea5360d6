"""The scripts of this folder, which only people start."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["compare_frames", "long_stream", "profile_frame", "score_codecs", "score_losses"])
def test_a_script_can_be_imported(name: str) -> None:
    assert import_module(f"tests.bench.{name}").main
