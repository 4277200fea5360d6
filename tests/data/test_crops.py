"""A crop is a function of (seed, step, rank), of one speaker, and has the prepared samples."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codecctl.config.schema import DataConfig
from codecctl.data.crops import Crops, prefetch, read_utterance, utterances
from codecctl.data.prepare import prepare
from codecctl.errors import CodecctlError


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Five speakers of many short ramps: speaker k says only sizes around k / 10, and each sample's says where it is.

    The signs are random: a ramp alone would be turned away as no sound."""
    signs = np.random.default_rng(0).choice([-1, 1], 300)
    for speaker in range(5):
        (tmp_path / "raw" / f"{speaker}").mkdir(parents=True)
        for number in range(6):
            place = 300 * number + np.arange(300)
            audio = signs * (speaker / 10 + 0.01 + place / 65_536)
            soundfile.write(tmp_path / "raw" / f"{speaker}" / f"{number}.wav", audio, 16_000, subtype="FLOAT")
    prepare([tmp_path / "raw"], tmp_path / "out", DataConfig(min_seconds=0, validation_share=0.2))
    return tmp_path / "out"


def test_batch_is_a_function_of_seed_step_and_rank(prepared: Path) -> None:
    crops = Crops(prepared, "train", 500, seed=3)
    whole = crops.batch(7, 8)
    assert whole.shape == (8, 1, 500)
    assert whole.dtype == torch.float32
    again = Crops(prepared, "train", 500, seed=3)
    again.batch(2, 8)  # what was read before does not matter
    ranks = torch.cat([again.batch(7, 2, rank, n_ranks=4) for rank in range(4)])
    assert torch.equal(ranks, whole)
    assert not torch.equal(crops.batch(8, 8), whole)
    assert not torch.equal(Crops(prepared, "train", 500, seed=4).batch(7, 8), whole)


def test_crop_joins_utterances_of_one_speaker_only(prepared: Path) -> None:
    for split in ("train", "validation"):
        speakers = {utterance.speaker for utterance in utterances(prepared, split)}
        for step in range(20):
            for crop in Crops(prepared, split, 1000, seed=0).batch(step, 4)[:, 0].abs():
                assert torch.allclose(crop.diff(), torch.tensor(1 / 65_536), atol=1e-4)  # across clips, without a jump
                assert str(int(crop[0] * 10)) in speakers


def test_crops_of_a_step_start_at_different_places(prepared: Path) -> None:
    for step in range(20):
        starts = Crops(prepared, "train", 100, seed=0).batch(step, 32)[:, 0, 0].abs()
        assert len(starts.unique()) == 32


def test_all_seconds_are_equally_likely(prepared: Path) -> None:
    crops = Crops(prepared, "train", 10, seed=0)
    starts = torch.cat([crops.batch(step, 64)[:, 0, 0].abs() for step in range(50)])
    counts = torch.bincount((starts * 10).long())
    counts = counts[counts > 0]
    assert len(counts) == len({utterance.speaker for utterance in utterances(prepared, "train")})
    assert counts.max() < 1.1 * counts.min()


def test_short_run_is_padded_at_its_end(prepared: Path) -> None:
    crop = Crops(prepared, "train", 4000, seed=0).batch(0, 1)[0, 0].abs()
    assert (crop[:1800] > 0).all()
    assert not crop[1800:].any()


def test_crops_and_utterances_report_what_was_prepared(prepared: Path) -> None:
    found = utterances(prepared, "train")
    crops = Crops(prepared, "train", 100, seed=0)
    assert crops.n_samples == sum(utterance.n_samples for utterance in found) == 16_000 * crops.seconds
    audio, _ = soundfile.read(prepared.parent / "raw" / found[3].source, dtype="float32")
    np.testing.assert_allclose(read_utterance(prepared, found[3])[0], audio, atol=1 / 65_536)


def test_empty_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    soundfile.write(tmp_path / "raw" / "a.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 16_000)
    prepare([tmp_path / "raw"], tmp_path / "out", DataConfig())
    assert Crops(tmp_path / "out", "train", 100, 0).n_samples == 9000
    for look in (
        lambda: Crops(tmp_path / "out", "validation", 100, 0),
        lambda: utterances(tmp_path / "out", "validation"),
    ):
        with pytest.raises(CodecctlError, match=r"no recordings in the validation split; .* data\.validation_share"):
            look()


def square(step: int) -> int:
    if step == 9:
        raise CodecctlError("the ninth")
    return step * step


@pytest.mark.parametrize(
    ("n_workers", "in_processes"),
    [(0, False), (1, False), (3, False), (0, True), pytest.param(2, True, marks=pytest.mark.slow)],
)
def test_prefetcher_keeps_the_order_and_raises_errors_in_their_place(n_workers: int, in_processes: bool) -> None:
    with prefetch(square, 5, n_workers, in_processes=in_processes) as batches:
        assert [next(batches) for _ in range(4)] == [(5, 25), (6, 36), (7, 49), (8, 64)]
        with pytest.raises(CodecctlError, match="the ninth"):
            next(batches)


@pytest.mark.slow
def test_processes_cut_the_same_crops(prepared: Path) -> None:
    crops = Crops(prepared, "train", 1000, 0, DataConfig(speed_augmentation=0.1, noise_snr_db=(20, 40)))
    assert crops.are_augmented
    with prefetch(partial(crops.array, batch_size=4), 3, 2, in_processes=True) as batches:
        for step, array in islice(batches, 3):
            assert torch.equal(torch.from_numpy(array), crops.batch(step, 4))


def kill(step: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_is_one_error() -> None:
    killed = pytest.raises(CodecctlError, match="a worker process was killed")
    with killed, prefetch(kill, 0, 1, in_processes=True) as batches:
        next(batches)


_PARENT = """
import os
from codecctl.data.crops import prefetch
from tests.data.test_crops import process_id
if __name__ == "__main__":
    with prefetch(process_id, 0, 2, in_processes=True) as batches:
        print(*{next(batches)[1] for _ in range(8)}, flush=True)
        input()
"""


def process_id(step: int) -> int:
    return os.getpid()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_processes_end_with_their_parent_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    for worker in workers:
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
    assert all(Path(f"/proc/{worker}").exists() for worker in workers)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three languages of 8, 2 and 1 s, told apart by their level; one of them is narrow."""
    rows = ["id\tspeaker\tlanguage\tlicence"]
    (tmp_path / "raw").mkdir()
    random = np.random.default_rng(0)
    for language, seconds, level in [("en", 8, 0.3), ("hi", 2, 0.1), ("te", 1, 0.02)]:
        for number in range(seconds):
            audio = level * random.choice([-1.0, 1.0], 16_000 if language != "hi" else 8000)
            audio *= random.uniform(0.9, 1.0, len(audio))  # no flat tops: they would count as clipping
            if language == "hi":
                audio = np.repeat(audio, 2)
                audio = np.convolve(audio, np.sinc(np.arange(-40, 41) / 3) * np.hamming(81) / 3, "same")
            soundfile.write(tmp_path / "raw" / f"{language}{number}.wav", audio, 16_000)
            rows.append(f"{language}{number}\t{language}\t{language}\tCC-{'BY' if language == 'en' else '0'}-4.0")
    (tmp_path / "raw.tsv").write_text("\n".join(rows))
    prepare([tmp_path / "raw"], tmp_path / "out", DataConfig(validation_share=0))
    return tmp_path / "out"


def shares(folder: Path, **keys: object) -> dict[str, float]:
    """How much of the crops each language has."""
    crops = Crops(folder, "train", 1000, 0, DataConfig.model_validate(keys))
    levels = torch.cat([crops.batch(step, 100) for step in range(10)]).square().mean(dim=(1, 2)).sqrt()
    names = np.array(["te", "hi", "en"])[np.searchsorted([0.03, 0.2], levels.numpy())]
    return {name: float(np.mean(names == name)) for name in ("en", "hi", "te")}


def test_mix_sets_how_often_languages_are_drawn(mixed: Path) -> None:
    close = partial(pytest.approx, abs=0.03)
    assert shares(mixed) == close({"en": 8 / 11, "hi": 2 / 11, "te": 1 / 11})
    assert shares(mixed, mix={"temperature": 1e6}) == close({"en": 1 / 3, "hi": 1 / 3, "te": 1 / 3})
    doubled = shares(mixed, mix={"languages": {"te": "8", "h*": "0"}})
    assert doubled == close({"en": 0.5, "hi": 0, "te": 0.5})
    with pytest.raises(CodecctlError, match=r"data\.mix\.languages: nothing prepared is 'tl'; there is en, hi, te"):
        shares(mixed, mix={"languages": {"tl": 2}})
    with pytest.raises(CodecctlError, match="all its factors are 0"):
        shares(mixed, mix={"datasets": {"raw": 0}})


def test_what_is_never_drawn_is_no_part_of_an_epoch(mixed: Path) -> None:
    drawn = DataConfig.model_validate({"mix": {"languages": {"en": 0, "te": 7}}})
    assert Crops(mixed, "train", 1000, 0, drawn).seconds == pytest.approx(3)


def test_filter_leaves_out_utterances(mixed: Path) -> None:
    assert shares(mixed, filter={"min_bandwidth_hz": 5000})["hi"] == 0
    assert shares(mixed, filter={"languages": ["hi"]})["hi"] == 1
    assert shares(mixed, filter={"licences": ["CC-0*"]})["en"] == 0
    with pytest.raises(CodecctlError, match=r"data\.filter\.licences: nothing prepared is 'GPL'"):
        shares(mixed, filter={"licences": ["GPL"]})
    with pytest.raises(CodecctlError, match="leaves nothing of the train split"):
        shares(mixed, filter={"min_bandwidth_hz": 9000})


def test_crop_level_is_the_configured_one(mixed: Path) -> None:
    crops = Crops(mixed, "train", 1000, 0, DataConfig(crop_level_db=-26)).batch(3, 64)
    levels_db = 10 * crops.square().mean(dim=-1).log10()
    assert (levels_db + 26).abs().max() < 0.01


def test_speed_augmentation_changes_the_pitch(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for seed in (0, 1):
        spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(160_000))
        spectrum[10_000:] = 0  # 1 kHz
        soundfile.write(tmp_path / "raw" / f"{seed}.wav", 0.3 * np.fft.irfft(spectrum), 16_000)
    prepare([tmp_path / "raw"], tmp_path / "out", DataConfig(validation_share=0.5))
    crops = Crops(tmp_path / "out", "train", 16_000, 0, DataConfig(speed_augmentation=0.2))
    energy = torch.fft.rfft(crops.batch(0, 64)[:, 0]).abs().square().cumsum(dim=1)
    ends = (energy > 0.995 * energy[:, -1:]).int().argmax(dim=1)  # Hz
    assert 780 < ends.min() < 850
    assert 1150 < ends.max() < 1220
    assert torch.equal(torch.cat([crops.batch(7, 2, rank, n_ranks=2) for rank in range(2)]), crops.batch(7, 4))


def test_slowed_crop_of_a_short_run_is_padded(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    audio = 0.3 * np.random.default_rng(0).standard_normal(4000)
    for name in ("a", "b"):
        soundfile.write(tmp_path / "raw" / f"{name}.wav", audio[: 4000 if name == "a" else 3999], 16_000)
    prepare([tmp_path / "raw"], tmp_path / "out", DataConfig(validation_share=0.5))
    batch = Crops(tmp_path / "out", "train", 8000, 0, DataConfig(speed_augmentation=0.5)).batch(0, 16)[:, 0]
    lengths = [int(crop.nonzero().max()) + 1 for crop in batch]
    assert min(lengths) < 3800
    assert 4200 < max(lengths) <= 8000


def test_colour_augmentation_is_a_smooth_zero_phase_filter(mixed: Path) -> None:
    plain = Crops(mixed, "train", 16_000, 0).batch(3, 16)[:, 0].double()
    varied = Crops(mixed, "train", 16_000, 0, DataConfig(colour_augmentation_db=6)).batch(3, 16)[:, 0].double()
    response = torch.fft.rfft(varied)[:, 100:7900] / torch.fft.rfft(plain)[:, 100:7900]  # lines of 1 Hz
    peak = varied.abs().amax(dim=1)
    not_softened = peak < 0.999
    response = response[not_softened & (plain.abs().amax(dim=1) > 0.01)]
    assert len(response) >= 8
    curves_db = 20 * response.abs().log10()
    middle = curves_db.median(dim=1, keepdim=True).values
    assert (response.angle().abs().median(dim=1).values < 0.01).all()
    assert curves_db.median(dim=0).values.abs().max() < 7
    assert (curves_db - middle).abs().quantile(0.9) > 0.5


def test_level_augmentation_scales_crops_within_the_peak_bound(mixed: Path) -> None:
    plain = Crops(mixed, "train", 1000, 0).batch(5, 64)
    varied = Crops(mixed, "train", 1000, 0, DataConfig(level_augmentation_db=12)).batch(5, 64)
    gains = (varied * plain).sum(dim=-1) / plain.square().sum(dim=-1)
    assert torch.allclose(varied, gains[..., None] * plain, atol=1e-6)
    assert varied.abs().max() <= 1
    gains_db = 20 * gains.log10()
    assert -12.01 < gains_db.min() < -6
    assert 3 < gains_db.max() < 12.01
    unbound = Crops(mixed, "train", 1000, 0, DataConfig(level_augmentation_db=12), math.inf).batch(5, 64)
    assert unbound.abs().max() > 1  # where a codec can say it
    assert 11 < 20 * (unbound.abs().amax() / plain.abs().amax()).log10() < 12.01


def test_noise_has_the_configured_distance_and_random_colours(mixed: Path) -> None:
    plain = Crops(mixed, "train", 16_000, 0).batch(3, 64)[:, 0]
    crops = Crops(mixed, "train", 16_000, 0, DataConfig(noise_snr_db=(20, 40)), math.inf)
    noise = crops.batch(3, 64)[:, 0] - plain
    snr_db = 10 * (plain.square().mean(dim=1) / noise.square().mean(dim=1)).log10()
    assert (snr_db > 19.9).all()
    assert (snr_db < 40.1).all()
    assert snr_db.std() > 4
    power = torch.fft.rfft(noise).abs().square()
    tilt_db = 10 * (power[:, 100:1000].mean(dim=1) / power[:, 4000:8000].mean(dim=1)).log10()
    assert tilt_db.min() < -5
    assert tilt_db.max() > 5
    assert torch.equal(crops.batch(3, 32, 1, 2)[:, 0], crops.batch(3, 64)[32:, 0])
