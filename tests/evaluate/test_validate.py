import json
import math
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.evaluate.metrics import snr_db
from codecctl.evaluate.recordings import Recording, find_recordings
from codecctl.evaluate.result import Validation
from codecctl.evaluate.validate import ValidationSet, Work, validate
from codecctl.model.codec import Codec
from tests.conftest import write_audio

QUICK = ValidateConfig(metrics=(), opus_kbps=())


def _quick(codec: Codec, recordings: list[Recording], work: Work | None = None) -> Validation:
    return validate(codec, recordings, source="here", config=QUICK, work=work)


def test_scores_are_those_of_what_the_codec_returns(codec: Codec, speech_files: list[Path]) -> None:
    result = _quick(codec, find_recordings(speech_files[0]))
    audio = torch.from_numpy(soundfile.read(speech_files[0], dtype="float32")[0])[None, None]
    with torch.no_grad():
        codes = codec.encode(audio)
        decoded = codec.decode(codes, length=audio.shape[-1]).clamp(-1, 1)
    assert result.means["snr_db"] == pytest.approx(float(snr_db(audio, decoded)), abs=1e-3)
    assert result.books[0].n_codes == codes.shape[-1]
    assert result.bitrate_kbps == pytest.approx(codes.shape[-1] * 13 / audio.shape[-1] * 16)
    assert result.seconds == pytest.approx(audio.shape[-1] / 16000)


def test_a_codec_that_is_37_samples_late_gets_the_score_of_one_that_is_not(
    speaking: Codec, late: Codec, clips: list[Recording]
) -> None:
    prompt, tardy = (_quick(which, clips[:3], Work(curve=True)) for which in (speaking, late))
    assert (prompt.delays["codec"], tardy.delays["codec"]) == (0, 37)
    assert tardy.means == pytest.approx(prompt.means, rel=2e-2)
    assert prompt.means["snr_db"] > 4
    for one, other in zip(prompt.systems, tardy.systems, strict=True):  # fewer books, all but the first, quantizer off
        assert other.metrics["snr_db"].value == pytest.approx(one.metrics["snr_db"].value, abs=0.1), one.name


def test_an_undefined_mean_is_null_in_json(codec: Codec, tmp_path: Path) -> None:
    write_audio(tmp_path / "silence.wav", np.zeros((1, 4000), np.float32), 16000)
    result = _quick(codec, find_recordings(tmp_path))
    assert math.isnan(result.means["snr_db"])
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["metrics"]["snr_db"] is None


def test_a_training_runs_set_scores_the_same_and_leaves_the_mode(speaking: Codec, speech_files: list[Path]) -> None:
    folder = speech_files[0].parent
    speaking.train()
    config = ValidateConfig(metrics=("stoi",), n_utterances=2, opus_kbps=())
    validation = ValidationSet.open(folder, config)
    scores = validation.score(speaking)
    assert speaking.training
    assert len(scores.values) == (5 if find_spec("pystoi") else 3)
    means = validate(speaking.eval(), validation.recordings, source="here", config=config).means
    assert scores.values == pytest.approx({name: means[name] for name in scores.values}, rel=1e-4)


def test_two_processes_give_what_one_gives(speaking: Codec, clips: list[Recording]) -> None:
    pytest.importorskip("pystoi")
    config = ValidateConfig(metrics=("stoi",), opus_kbps=())
    told: list[tuple[int, int]] = []
    one, two = (
        validate(
            speaking,
            clips[:3],
            source="here",
            config=config,
            work=Work(n_workers=n),
            progress=lambda *a: told.append(a),
        )
        for n in (0, 2)
    )
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    assert two.means == pytest.approx(one.means, rel=1e-6)
    assert one.means["stoi"] > 0.5


def test_an_interrupt_keeps_what_is_done_and_continue_goes_on(
    speaking: Codec, clips: list[Recording], tmp_path: Path
) -> None:
    def press_ctrl_c(done: int, _: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    part = validate(speaking, clips[:4], source="here", config=QUICK, work=Work(folder=tmp_path), progress=press_ctrl_c)
    assert (part.n_utterances, part.n_missing) == (2, 2)
    asked: list[tuple[int, int]] = []
    whole = validate(
        speaking,
        clips[:4],
        source="here",
        config=QUICK,
        work=Work(folder=tmp_path, go_on=True),
        progress=lambda *counts: asked.append(counts),
    )
    assert asked == [(3, 4), (4, 4)]
    assert whole.to_dict() == _quick(speaking, clips[:4]).to_dict()


def test_scores_of_another_model_are_not_mixed_in(speaking: Codec, clips: list[Recording], tmp_path: Path) -> None:
    _quick(speaking, clips[:2], Work(folder=tmp_path, identity={"codec": "one"}))
    with pytest.raises(UsageError, match="another model"):
        _quick(speaking, clips[:2], Work(folder=tmp_path, go_on=True, identity={"codec": "two"}))


def test_a_checkpoint_against_itself_differs_in_nothing(speaking: Codec, late: Codec, clips: list[Recording]) -> None:
    same = _quick(speaking, clips[:2], Work(against=speaking)).comparison
    assert same is not None
    assert same.equal_codes == (1.0, 1.0, 1.0)
    assert all(mean.value == 0 for mean in same.differences.values())
    worse = Codec(speaking.config).eval()
    worse.encoder, worse.decoder = speaking.encoder, speaking.decoder
    other = _quick(speaking, clips[:2], Work(against=worse)).comparison
    assert other is not None
    assert other.equal_codes is not None
    assert max(other.equal_codes) < 0.1
    assert other.differences["snr_db"].low > 3


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_measured(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no such thing")
    with pytest.raises(CodecctlError, match=r"bad\.wav"):
        _quick(codec, find_recordings(tmp_path))
    write_audio(tmp_path / "good.wav", 0.1 * np.random.default_rng(0).random((1, 8000), np.float32), 16000)
    result = _quick(codec, find_recordings(tmp_path))
    assert result.n_utterances == 1
    assert [name.endswith("bad") for name in result.failed] == [True]


def test_groups_curve_and_worst(speaking: Codec, clips: list[Recording]) -> None:
    result = _quick(speaking, clips, Work(curve=True))
    assert {g.name: g.n_utterances for g in result.groups if g.kind == "language"} == {"en": 4, "es": 4, "it": 4}
    assert sum(g.books[0].n_codes for g in result.groups if g.kind == "language") == result.books[0].n_codes
    by_books = [result.system(name) for name in ("books_1", "books_2", "codec")]
    snr = [system.metrics["snr_db"].value for system in by_books if system]
    assert snr == sorted(snr)
    worst = [value for _, value in result.worst["snr_db"]]
    assert len(worst) == 10
    assert worst == sorted(worst)
    assert result.speaker_probe is not None
    assert result.content_probe is not None
    assert result.content_probe.n_recordings == 12
    assert int(result.histograms[0].sum()) == result.books[0].n_codes


def test_nothing_to_measure_is_an_error(codec: Codec) -> None:
    with pytest.raises(CodecctlError, match="no recordings"):
        _quick(codec, [])
