import pytest

from codecctl.config.schema import ValidateConfig
from codecctl.errors import UsageError
from codecctl.evaluate.baselines import has_opus
from codecctl.evaluate.recordings import Recording
from codecctl.evaluate.result import Validation
from codecctl.evaluate.validate import validate
from codecctl.evaluate.verdict import check_requirements, judge, say_verdict
from codecctl.model.codec import Codec


@pytest.fixture(scope="module")
def result(speaking: Codec, clips: list[Recording]) -> Validation:
    return validate(speaking, clips[:3], source="here", config=ValidateConfig(metrics=()))


def test_requirements_pass_and_fail_by_the_metrics_sense(result: Validation) -> None:
    snr, distance = result.means["snr_db"], result.means["mel_distance"]
    require = {"snr_db": snr - 1, "si_sdr_db": 99.0, "mel_distance": distance + 1, "pesq_wb": 1.0, "perplexity": 0.999}
    judged = {requirement.name: requirement for requirement in judge(result, require)}
    assert [name for name, requirement in judged.items() if requirement.passed] == ["snr_db", "mel_distance"]
    assert "was not measured" in judged["pesq_wb"].line
    assert "of book" in judged["perplexity"].line


def test_a_requirement_on_what_is_no_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'si_sdr_db'"):
        check_requirements({"si_sdr": 1.0})


def test_the_verdict_ranks_among_the_anchors_and_tells_what_is_possible(result: Validation) -> None:
    said = " ".join(say_verdict(result))
    assert f"At {result.bitrate_kbps:.2f} kbps" in said
    assert ("better than Opus" in said) == has_opus()
    assert "Gaussian bound" in said
    assert "quantizer is what limits it" in said
    assert "Every book is in use" in said
