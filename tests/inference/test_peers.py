"""`bench --peers`: the codecs of transformers run, and their times are printed."""

from __future__ import annotations

import pytest

from codecctl.inference.timing import measure_peers


@pytest.mark.slow
def test_peers_are_timed_both_ways() -> None:
    times = measure_peers(0.4)
    assert list(times) == ["EnCodec 24 kHz", "Mimi, 8 codebooks", "DAC 16 kHz"]
    for factors in times.values():
        assert set(factors) == {"encode_real_time_factor", "decode_real_time_factor"}
        assert all(factor > 0 for factor in factors.values())
