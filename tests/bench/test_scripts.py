"""The scripts of this folder, which only people start."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["long_stream", "score_codecs", "score_losses"])
def test_a_script_can_be_imported(name: str) -> None:
    assert import_module(f"tests.bench.{name}").main
