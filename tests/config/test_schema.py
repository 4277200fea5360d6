"""The schema: what it derives, what it refuses, and that every key explains itself."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from codecctl.config.model import ModelConfig, QuantizerConfig, Section, StridedConfig, TransformerConfig
from codecctl.config.schema import Config, LossConfig


def fields(section: type[Section], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every key below a section; a section that may be empty counts as one."""
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        yield f"{path}{field.alias or name}", field
        for kind in below:
            yield from fields(kind, f"{path}{field.alias or name}.")


def is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def test_every_key_has_a_help_and_every_section_a_docstring() -> None:
    found = dict(fields(Config))
    assert len(found) > 50
    for key, field in found.items():
        told = field.annotation.__doc__ if is_section(field) and field.annotation else field.description
        assert told, f"{key} says nothing about itself"


def test_what_follows_from_other_keys_is_computed() -> None:
    model = ModelConfig()
    assert (model.hop_length, model.frame_rate, model.n_codebooks, model.bits_per_frame) == (320, 50.0, 8, 81)
    assert model.bitrate_kbps == pytest.approx(4.05)
    odd = ModelConfig(
        sample_rate=22050, front=StridedConfig(strides=(2, 4, 8)), quantizer=QuantizerConfig(codebook_sizes=(2, 65536))
    )
    assert odd.frame_rate == 22050 / 64  # never rounded
    assert odd.bits_per_frame == 17


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize("sizes", [(), (1,), (3,), (1000,), (131072,), (1024, 0)])
def test_codebook_sizes_are_powers_of_two_that_fit_a_file(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        QuantizerConfig(codebook_sizes=sizes)


def test_heads_share_the_width_in_even_parts() -> None:
    with pytest.raises(ValidationError, match="multiple of 2 x n_heads"):
        TransformerConfig(width=36, n_heads=8)


def test_every_mel_window_has_its_bins() -> None:
    with pytest.raises(ValidationError, match="n_mels has 1 entries and mel_windows 2"):
        LossConfig(mel_windows=(64, 128), n_mels=(10,))


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_a_weight_is_a_number_from_zero_up(number: str) -> None:
    with pytest.raises(ValidationError):
        LossConfig.model_validate({"mel_weight": number})


def test_null_empties_only_what_may_be_empty() -> None:
    config = Config.model_validate({"validate": {"n_utterances": "null"}, "train": {"gpu": "~"}})
    assert config.validation.n_utterances is None
    assert config.train.gpu is None
    with pytest.raises(ValidationError):
        Config.model_validate({"train": {"batch_size": "null"}})
