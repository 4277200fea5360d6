import math
from dataclasses import replace

import pytest

from codecctl.audio import pyav
from codecctl.config.schema import ValidateConfig
from codecctl.errors import UsageError
from codecctl.evaluate.evaluation import measure
from codecctl.evaluate.intervals import Mean
from codecctl.evaluate.report.templates import in_sentence, in_sentences
from codecctl.evaluate.result import Comparison, Validation
from codecctl.evaluate.utterances import ReferenceUtterance
from codecctl.evaluate.verdict import check_requirements, compare, verdict_of
from codecctl.model.codec import Codec
from tests.evaluate.conftest import renderer_of


@pytest.fixture(scope="module")
def result(speaking: Codec, clips: list[ReferenceUtterance]) -> Validation:
    config = ValidateConfig(metrics=())
    return measure(renderer_of(speaking, config), clips[:3], config)


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (0.3, ": the quantizer limits it."),
        (0.7, ": the quantizer limits it, and so do encoder and decoder."),
        (0.87, ": encoder and decoder limit it, and more bits for the same latents would help little."),
    ],
)
def test_the_quantizers_share_is_told_as_it_is(result: Validation, without: float, words: str) -> None:
    """Of the starter 0.87 stay without its quantizer: above 1.4 kHz it sends band levels alone."""
    off = result.system("unquantized")
    assert off is not None
    distance = Mean(without * result.means["mel_distance"], math.nan, math.nan, 1)
    changed = replace(off, metrics={**off.metrics, "mel_distance": distance})
    systems = tuple(changed if system is off else system for system in result.systems)
    changed_result = replace(result, systems=systems)
    text = " ".join(in_sentences(changed_result, verdict_of(changed_result)))
    assert words in text


@pytest.mark.parametrize(
    ("better", "worse", "sentence"),
    [
        ((), (), "Compared with runs/b/last.pt, no difference is certain."),
        (("snr_db", "stoi"), (), "Better than runs/b/last.pt in all 2 metrics: SNR, STOI."),
        ((), ("stoi",), "Worse than runs/b/last.pt in STOI; other differences are not certain."),
        (("snr_db",), ("stoi",), "Better than runs/b/last.pt in SNR; worse in STOI."),
    ],
)
def test_the_verdict_names_the_other_checkpoint_and_what_differs(
    result: Validation, better: tuple[str, ...], worse: tuple[str, ...], sentence: str
) -> None:
    differences = dict.fromkeys(("snr_db", "stoi"), Mean(0.0, 0.0, 0.0, 1))
    changed = replace(result, comparison=Comparison(differences, None, "runs/b/last.pt"))
    verdict = replace(verdict_of(changed), better=better, worse=worse)
    assert in_sentences(changed, verdict)[-1] == sentence


def test_requirements_are_limits_in_the_metrics_direction(result: Validation) -> None:
    snr, distance = result.means["snr_db"], result.means["mel_distance"]
    require = {"snr_db": snr - 1, "si_sdr_db": 99.0, "mel_distance": distance + 1, "pesq_wb": 1.0, "perplexity": 0.999}
    compared = {name: compare(result, name, limit) for name, limit in require.items()}
    assert [name for name, requirement in compared.items() if requirement.passed] == ["snr_db", "mel_distance"]
    assert "was not measured" in in_sentence(compared["pesq_wb"])
    assert "of codebook" in in_sentence(compared["perplexity"])


def test_a_requirement_on_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'si_sdr_db'"):
        check_requirements({"si_sdr": 1.0})


def test_the_verdict_ranks_the_codec_among_opus_rates_and_names_the_bound(result: Validation) -> None:
    text = " ".join(in_sentences(result, verdict_of(result)))
    assert f"At {result.bitrate_kbps:.2f} kbps" in text
    assert ("better than Opus" in text) == pyav.is_installed()
    assert "Gaussian bound" in text
    assert "Every codebook is in use" in text
