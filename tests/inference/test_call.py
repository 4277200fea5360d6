"""The example of a call, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "call.py"


@pytest.mark.slow
def test_five_seconds_of_a_call(tmp_path: Path, speech_files: list[Path]) -> None:
    """However slow the machine is: what is late is concealed, and every frame is played."""
    samples, rate = soundfile.read(speech_files[2])
    soundfile.write(tmp_path / "in.wav", np.resize(samples, 5 * rate), rate)
    command = [sys.executable, str(EXAMPLE), "in.wav", "out.wav", "--loss", "10", "--jitter", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    counts = re.match(r"250 frames sent, (\d+) dropped on the way, (\d+) late, (\d+) concealed\n", done.stdout)
    assert counts
    n_dropped, _, n_concealed = map(int, counts.groups())
    assert 10 <= n_dropped <= n_concealed
    played, rate = soundfile.read(tmp_path / "out.wav")
    assert (len(played), rate) == (250 * 320, 16000)
    assert n_concealed == 250 or played.any()
