import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codecctl import evaluate
from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, ConfigError, UsageError
from codecctl.evaluate import scorer
from codecctl.evaluate.evaluation import measure
from codecctl.evaluate.metrics.ratios import snr_db
from codecctl.evaluate.rendering import Renderer
from codecctl.evaluate.result import Validation
from codecctl.evaluate.scorer import ValidationSet
from codecctl.evaluate.utterances import ReferenceUtterance, find_utterances
from codecctl.files import to_json
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec
from tests.conftest import write_audio
from tests.evaluate.conftest import renderer_of

QUICK = ValidateConfig(metrics=(), opus_kbps=())


def _measure(
    codec: Codec,
    utterances: Sequence[ReferenceUtterance],
    config: ValidateConfig = QUICK,
    *,
    against: Codec | None = None,
    parts: bool = False,
    **options: Any,
) -> Validation:
    return measure(renderer_of(codec, config, against=against, parts=parts), utterances, config, **options)


def test_scores_are_those_of_the_codecs_output(codec: Codec, speech_files: list[Path]) -> None:
    result = _measure(codec, find_utterances(speech_files[0]))
    audio = torch.from_numpy(soundfile.read(speech_files[0], dtype="float32")[0])[None, None]
    with torch.no_grad():
        codes = codec.encode(audio)
        decoded = codec.decode(codes, length=audio.shape[-1]).clamp(-1, 1)
    assert result.means["snr_db"] == pytest.approx(float(snr_db(audio, decoded)), abs=1e-3)
    assert result.codebooks[0].n_codes == codes.shape[-1]
    assert result.bitrate_kbps == pytest.approx(codes.shape[-1] * 13 / audio.shape[-1] * 16)
    assert result.seconds == pytest.approx(audio.shape[-1] / 16000)


@pytest.mark.slow
def test_a_delay_of_37_samples_does_not_change_the_scores(
    speaking: Codec, late: Codec, clips: list[ReferenceUtterance]
) -> None:
    prompt, tardy = (_measure(which, clips[:3], parts=True) for which in (speaking, late))
    assert (prompt.delays["codec"], tardy.delays["codec"]) == (0, 37)
    assert tardy.means == pytest.approx(prompt.means, rel=2e-2)
    assert prompt.means["snr_db"] > 4
    for one, other in zip(
        prompt.systems, tardy.systems, strict=True
    ):  # also with fewer codebooks, all but the first, quantizer off
        assert other.metrics["snr_db"].mean == pytest.approx(one.metrics["snr_db"].mean, abs=0.1), one.name


def test_an_undefined_mean_is_null_in_json(codec: Codec, tmp_path: Path) -> None:
    write_audio(tmp_path / "silence.wav", np.zeros((1, 4000), np.float32), 16000)
    result = _measure(codec, find_utterances(tmp_path))
    assert math.isnan(result.means["snr_db"])
    assert json.loads(to_json(result.to_dict()))["metrics"]["snr_db"] is None


@pytest.mark.slow
def test_a_trainings_validation_gives_the_same_scores_and_restores_the_mode(
    speaking: Codec, speech_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_MAX_WORKERS", 0)  # starting processes takes longer than the scores
    folder = speech_files[0].parent
    speaking.train()
    config = ValidateConfig(metrics=("stoi",), n_utterances=2, opus_kbps=())
    validation = ValidationSet.open(folder, config)
    scores = validation.score(speaking)
    assert speaking.training
    assert len(scores.values) == (6 if find_spec("pystoi") else 4)
    means = _measure(speaking.eval(), validation.utterances, config, n_workers=0).means
    assert scores.values == pytest.approx({name: means[name] for name in scores.values}, rel=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(speaking: Codec, clips: list[ReferenceUtterance]) -> None:
    pytest.importorskip("pystoi")
    config = ValidateConfig(metrics=("stoi",), opus_kbps=())
    calls: list[tuple[int, int]] = []
    one, two = (
        _measure(speaking, clips[:3], config, n_workers=n, on_progress=lambda *counts: calls.append(counts))
        for n in (0, 2)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)] * 2
    assert two.means == pytest.approx(one.means, rel=1e-6)
    assert one.means["stoi"] > 0.5


@pytest.mark.slow
def test_an_interrupted_measurement_is_continued(
    speaking: Codec, clips: list[ReferenceUtterance], tmp_path: Path
) -> None:
    def press_ctrl_c(done: int, _: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    part = _measure(speaking, clips[:4], folder=tmp_path, on_progress=press_ctrl_c)
    assert (part.n_utterances, part.n_missing) == (2, 2)
    calls: list[tuple[int, int]] = []
    whole = _measure(
        speaking, clips[:4], folder=tmp_path, resume=True, on_progress=lambda *counts: calls.append(counts)
    )
    assert calls == [(3, 4), (4, 4)]
    assert to_json(whole.to_dict()) == to_json(_measure(speaking, clips[:4]).to_dict())


def test_scores_of_another_model_are_not_continued(
    speaking: Codec, clips: list[ReferenceUtterance], tmp_path: Path
) -> None:
    _measure(speaking, clips[:2], folder=tmp_path, identity="one")
    with pytest.raises(UsageError, match="another model"):
        _measure(speaking, clips[:2], folder=tmp_path, identity="two", resume=True)


def test_a_codec_against_itself_has_no_differences(
    speaking: Codec, late: Codec, clips: list[ReferenceUtterance]
) -> None:
    same = _measure(speaking, clips[:2], against=speaking).comparison
    assert same is not None
    assert same.equal_codes == (1.0, 1.0, 1.0)
    assert all(each.mean == 0 for each in same.differences.values())
    worse = Codec(speaking.config).eval()
    worse.encoder, worse.decoder = speaking.encoder, speaking.decoder
    other = _measure(speaking, clips[:2], against=worse).comparison
    assert other is not None
    assert other.equal_codes is not None
    assert max(other.equal_codes) < 0.1
    assert other.differences["snr_db"].low > 3


def test_an_unreadable_file_is_named_and_the_others_are_measured(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no such thing")
    with pytest.raises(CodecctlError, match=r"bad\.wav"):
        _measure(codec, find_utterances(tmp_path))
    write_audio(tmp_path / "good.wav", 0.1 * np.random.default_rng(0).random((1, 8000), np.float32), 16000)
    result = _measure(codec, find_utterances(tmp_path))
    assert result.n_utterances == 1
    assert [name.endswith("bad") for name in result.failed] == [True]


def test_groups_curve_and_worst_utterances(speaking: Codec, clips: list[ReferenceUtterance]) -> None:
    result = _measure(speaking, clips, parts=True)
    assert {g.name: g.n_utterances for g in result.groups if g.kind == "language"} == {"en": 4, "es": 4, "it": 4}
    assert sum(g.codebooks[0].n_codes for g in result.groups if g.kind == "language") == result.codebooks[0].n_codes
    curve = [result.system(name) for name in ("n_quantizers_1", "n_quantizers_2", "codec")]
    snr = [system.metrics["snr_db"].mean for system in curve if system]
    assert snr == sorted(snr)
    worst = [value for _, value in result.worst["snr_db"]]
    assert len(worst) == 10
    assert worst == sorted(worst)
    assert result.speaker_probe is not None
    assert result.content_probe is not None
    assert result.content_probe.n_utterances == 12
    assert int(result.histograms[0].sum()) == result.codebooks[0].n_codes


def test_an_empty_set_is_an_error(codec: Codec) -> None:
    with pytest.raises(CodecctlError, match="no recordings"):
        _measure(codec, [])


def test_the_kept_utterances_are_rendered_once(codec: Codec, clips: list[ReferenceUtterance]) -> None:
    renderer = renderer_of(codec, QUICK)
    rendered: list[int] = []
    renderer.render = lambda audio: (rendered.append(1), Renderer.render(renderer, audio))[1]  # type: ignore[method-assign]
    measure(renderer, clips[:3], QUICK)
    assert len(rendered) == 3  # for the delays and for the scores
    renderer.render_start(clips[0], 16000)
    assert len(rendered) == 3


def test_odd_recordings_give_json_without_warnings(speaking: Codec, tmp_path: Path) -> None:
    """One sample, silence, and fewer samples than any window."""
    for name, samples in {"one": np.ones(1), "zero": np.zeros(5000), "few": np.linspace(0, 0.1, 50)}.items():
        write_audio(tmp_path / f"{name}.wav", samples[None].astype(np.float32), 16000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = _measure(speaking, find_utterances(tmp_path / f"{name}.wav"), parts=True)
        json.loads(to_json(result.to_dict()), parse_constant=pytest.fail)


@pytest.fixture
def checkpoint(codec: Codec, tmp_path: Path) -> Path:
    save_codec(codec, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_run_measures_a_checkpoint_and_writes_its_report(checkpoint: Path, speech_files: list[Path]) -> None:
    sources = []
    evaluation = evaluate.run(
        checkpoint,
        data=speech_files[0],
        report=checkpoint.parent / "report",
        overrides=["validate.metrics=[]", "validate.opus_kbps=[]", "validate.require={mel_distance: 99}"],
        device="cpu",
        on_start=lambda source, _: sources.append(source),
    )
    assert sources == [speech_files[0]]
    assert evaluation.report == checkpoint.parent / "report" / "index.html"
    assert [requirement.passed for requirement in evaluation.requirements] == [True]
    record = json.loads(evaluation.to_json())
    assert record["fingerprint"] == evaluation.fingerprint
    assert set(record["systems"]) >= {"codec", "unquantized", "n_quantizers_1", "codebooks_2_to_3"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resume": True}, UsageError),
        ({"overrides": ["validate.metrics=[peskq]"]}, ConfigError),
        ({"overrides": ["validate.require={si_sdr: 1}"]}, UsageError),
        ({"data": "nothing"}, CodecctlError),
    ],
)
def test_run_refuses_arguments_that_do_not_fit(
    checkpoint: Path, speech_files: list[Path], options: dict[str, Any], error: type[CodecctlError]
) -> None:
    with pytest.raises(error):
        evaluate.run(checkpoint, **{"data": speech_files[0], "device": "cpu", **options})


@pytest.mark.slow
@pytest.mark.parametrize("module", ["codecctl.evaluate", "codecctl.evaluate.perceptual"])
def test_workers_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
