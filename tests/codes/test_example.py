"""The example of a language model of codes, as its users run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from codecctl.codes.job import encode_corpus
from tests.conftest import CLIPS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "speech_lm.py"


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, EXAMPLE, tmp_path / "nope", "s.wav"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nope" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_it_learns_the_clips_of_a_voice_and_its_sample_is_sound(tmp_path: Path) -> None:
    encode_corpus([CLIPS / "en-allison"], tmp_path / "codes", "starter", device="cpu")
    arguments = [sys.executable, EXAMPLE, tmp_path / "codes", tmp_path / "sample.wav", "--seconds", "2"]
    done = subprocess.run([*arguments, "--steps", "100"], capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in re.findall(r"step \d+: ([\d.]+) nats a code", done.stdout)]
    assert losses[-1] < losses[0] - 3
    audio, rate = soundfile.read(tmp_path / "sample.wav")
    assert (len(audio), rate) == (32_000, 16_000)
    assert 0.005 < audio.std() < 0.5
