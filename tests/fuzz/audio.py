"""Audio files of every format, read as `encode` and `prepare` read them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from codecctl.audio.files import AudioReader
from tests.fuzz.harness import Target

_INPUTS = Path(__file__).parents[1] / "inputs"
_FORMATS = {
    "pcm.wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"), "wide.rf64": ("RF64", "PCM_16"), "pcm.w64": ("W64", "PCM_16"),
    "pcm.aiff": ("AIFF", "PCM_16"), "law.aiff": ("AIFF", "ULAW"), "pcm.au": ("AU", "PCM_16"),
    "pcm.caf": ("CAF", "PCM_16"), "alac.caf": ("CAF", "ALAC_16"), "pcm.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"), "a.sph": ("NIST", "PCM_16"),
    "pcm.voc": ("VOC", "PCM_16"), "pcm.svx": ("SVX", "PCM_16"), "pcm.sf": ("IRCAM", "PCM_16"),
    "pcm.avr": ("AVR", "PCM_16"), "pcm.mpc": ("MPC2K", "PCM_16"), "pcm.mat4": ("MAT4", "FLOAT"),
    "pcm.mat5": ("MAT5", "PCM_16"), "pcm.sds": ("SDS", "PCM_16"), "law.wve": ("WVE", "ALAW"), "a.xi": ("XI", "DPCM_16"),
    "pcm.pvf": ("PVF", "PCM_16"), "pcm.paf": ("PAF", "PCM_16"),
}  # fmt: skip


def _make_inputs() -> Mapping[str, bytes]:
    """A second of a chirp in every format, and the files in tests/inputs."""
    time = np.arange(16_000) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * (200 * time + 900 * time**2))
    inputs = {path.name: path.read_bytes() for path in sorted(_INPUTS.iterdir()) if path.suffix not in (".md", ".c")}
    for name, (form, subtype) in _FORMATS.items():
        file = io.BytesIO()
        soundfile.write(file, sound, 16_000, format=form, subtype=subtype)
        inputs[name] = file.getvalue()
    stereo = io.BytesIO()
    soundfile.write(stereo, np.stack([sound, -0.5 * sound], axis=1), 8000, format="WAV", subtype="PCM_16")
    return inputs | {"stereo.wav": stereo.getvalue()}


def _read(path: Path) -> None:
    n_samples = 0
    with AudioReader(path, partial=path.stat().st_size % 4 == 0) as reader:
        for block in reader.blocks(0.5):
            mono = reader.to_mono(block)
            assert mono.shape == (1, block.shape[1])
            assert np.abs(mono).max() <= 64
            n_samples += block.shape[1]
    assert 0 <= n_samples <= 2_000 * path.stat().st_size + 65_536
    assert 4_000 <= reader.sample_rate <= 768_000


TARGET = Target("audio", _make_inputs, _read)
