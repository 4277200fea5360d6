"""YAML to `Config` and back: declared types decide, overlays and overrides lie on top, errors teach."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codecctl.config.load import configs_folder, dump_config, find_config, load_config, parse_config, read_yaml
from codecctl.config.model import TransformConfig
from codecctl.config.schema import Config
from codecctl.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: str | Path, *overrides: str, gpu: str | None = None) -> str:
    """The message, which is one line."""
    with pytest.raises(ConfigError) as error:
        load_config(path, gpu=gpu, overrides=overrides)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_name_and_a_path_work_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("smoke") == load_config(find_config("smoke"))
    assert load_config(write(tmp_path, "")) == Config() == load_config("production")


def test_a_file_in_this_folder_comes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smoke").write_text("train: {batch_size: 77}")
    assert load_config("smoke").train.batch_size == 77


def test_the_declared_type_reads_the_text(tmp_path: Path) -> None:
    text = "train: {learning_rate: 1e-4, n_steps: 1_000, precision: float32, compile: no}"
    config = load_config(write(tmp_path, text + "\nmodel: {front: {strides: [2, 5]}}\ndata: {path: 007}"))
    assert config.train.learning_rate == 1e-4
    assert config.train.n_steps == 1000
    assert config.train.compile is False
    assert config.model.front.strides == (2, 5)
    assert config.data.path == "007"


def test_the_card_lies_over_the_file_and_set_over_the_card() -> None:
    config = load_config("starter", gpu="rtx4090", overrides=["train.batch_size=3", "data.path=a=b", "train.seed=9"])
    assert config.train.precision == "bfloat16"
    assert config.train.batch_size == 3
    assert config.data.path == "a=b"
    assert config.model == load_config("starter").model
    assert config.train.gpu is not None
    assert config.train.gpu.name == "RTX 4090"


def test_a_card_sizes_the_production_run_and_what_says_nothing_else(tmp_path: Path) -> None:
    def run_of(config: str | Path) -> tuple[int, float | None]:
        train = load_config(config, gpu="rtx4090").train
        return train.n_steps, train.adversarial.heard_seconds

    production = run_of("production")
    assert production == (300000, 1.5)
    assert run_of(configs_folder() / "production.yaml") == production
    assert run_of(write(tmp_path, "data: {path: mine}")) == production
    assert run_of(write(tmp_path, "train: {n_steps: 7}")) == (7, 1.5)
    assert run_of("starter-adversarial") == (11000, 0.5)
    profile = write(tmp_path, "production: 3")
    assert "unknown key 'production'" in refused("smoke", gpu=str(profile))


def test_set_takes_lists_sections_and_the_last_word() -> None:
    overrides = ["model.front.strides=[2, 3]", "loss={mel_weight: 2, waveform_weight: 3}", "loss.mel_weight=4"]
    config = load_config("smoke", overrides=overrides)
    assert config.model.front.strides == (2, 3)
    assert (config.loss.mel_weight, config.loss.waveform_weight) == (4, 3)
    assert config.loss.n_mels == load_config("smoke").loss.n_mels


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(1e-12, 1e3),
    sizes=st.lists(st.sampled_from([2, 16, 1024, 65536]), min_size=1, max_size=9),
    path=st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12),
    limit=st.none() | st.integers(1, 10**9),
)
def test_what_is_dumped_is_read_back(rate: float, sizes: list[int], path: str, limit: int | None) -> None:
    values = {
        "train": {"learning_rate": rate},
        "model": {"quantizer": {"codebook_sizes": sizes}},
        "data": {"path": path},
        "validate": {"n_utterances": limit},
    }
    config = parse_config(values, source="test")
    assert parse_config(yaml.safe_load(dump_config(config)), source="dump") == config


def test_a_dumped_file_is_read_back(tmp_path: Path) -> None:
    config = load_config("starter", gpu="a100-80gb", overrides=["validate.require={pesq: 2.5}", "train.seed=12"])
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_an_unknown_key_is_named_with_its_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {quantizer: {codebok_sizes: [2]}}")
    assert refused(path) == (f"{path}: unknown key 'model.quantizer.codebok_sizes'; did you mean 'codebook_sizes'?")
    assert "unknown key 'validat'; did you mean 'validate'?" in refused("smoke", "validat.n_utterances=3")
    assert refused("smoke", "train.zzz=3") == "smoke: unknown key 'train.zzz'"
    assert "unknown key 'train.gpu.nam'; did you mean 'name'?" in refused("smoke", "train.gpu.nam=x", gpu="rtx4090")
    path.write_text("train: {gpu: {nmae: RTX 4090, memory_gb: 24, price_per_hour_usd: 1}}")
    assert "unknown key 'train.gpu.nmae'; did you mean 'name'?" in refused(path)  # and not that the name is missing


def test_a_wrong_value_is_named_with_its_key() -> None:
    assert "train.batch_size: input should be a valid integer" in refused("smoke", "train.batch_size=big")
    assert "got 'big'" in refused("smoke", "train.batch_size=big")
    assert "train: expected a section of keys, got '3'" in refused("smoke", "train=3")
    assert "train.freeze: expected a list, such as [a, b], got 'encoder'" in refused("smoke", "train.freeze=encoder")
    assert "train.batch_size: input should be greater than 0" in refused("smoke", "train.batch_size=0")
    assert "train.precision: input should be 'float32' or 'bfloat16'" in refused("smoke", "train.precision=half")
    assert "train.seed: input should be less than 4294967296" in refused("smoke", f"train.seed={2**32}")
    assert "train:" in refused("smoke", "train=3")
    assert "(and 1 more)" in refused("smoke", "train.batch_size=0", "train.seed=-1")


def test_a_range_of_noise_goes_upwards() -> None:
    assert "noise_snr_db: expected the smaller number first" in refused("smoke", "data.noise_snr_db=[60,20]")
    assert load_config("smoke", overrides=["data.noise_snr_db=[20,100]"]).data.noise_snr_db == (20, 100)


def test_a_front_has_its_own_keys() -> None:
    assert "unknown key 'model.front.level_prediction'" in refused("smoke", "model.front.level_prediction=0.4")
    assert "unknown key 'model.front.stride'; did you mean 'strides'?" in refused("smoke", "model.front.stride=[2]")
    assert "model.front: expected a section whose kind is" in refused("smoke", "model.front.kind=wavelet")
    kind = load_config("smoke", overrides=["model.front.kind=transform"]).model.front
    assert kind == TransformConfig()  # a front of another kind replaces the whole section


def test_bands_begin_where_coefficients_are_or_just_above() -> None:
    assert "first_band is 57, above the 56 low_coefficients" in refused("starter", "model.front.first_band=57")
    assert load_config("starter", overrides=["model.front.first_band=56"]).model.front.first_band == 56


def test_sizes_beyond_any_codec_are_refused_at_once() -> None:
    sizes = (
        "front.strides=[5000,5000]",
        "transformer.width=1000000",
        "front.base_channels=99999",
        "transformer.n_layers=9999",
    )
    for size in sizes:
        assert "model" in refused("smoke", f"model.{size}")


def test_repetition_is_measured_in_frames_of_whole_places() -> None:
    wrong = ("model.front.strides=[2,4,5,5]", "loss.repetition_weight=1")
    assert "loss.repetition_weight is for frames of a multiple of 16 samples" in refused("smoke", *wrong)
    assert load_config("smoke", overrides=["loss.repetition_weight=1"]).loss.repetition_weight == 1


NO_LOSS = [f"loss.{name}_weight=0" for name in ("waveform", "spectral", "mel", "commitment")]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.freeze=[encoder,decoder]"], "train.freeze: without encoder and decoder there is nothing to learn"),
        (NO_LOSS, "loss: no weight is above 0"),
        (["train.betas=[0.8,1]"], "train.betas.1: input should be less than 1"),
        (["loss.mel_windows=[3]", "loss.n_mels=[1]"], "loss.mel_windows.0: input should be greater than or equal to 4"),
        (["loss.spectral_windows=[1]"], "loss.spectral_windows.0: input should be greater than or equal to 4"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides: list[str], said: str) -> None:
    assert said in refused("smoke", *overrides)


def test_adversaries_alone_are_trained_with_from_the_start_on() -> None:
    alone = [*NO_LOSS, "loss.adversarial_weight=1", "train.adversarial.start_epoch=0"]
    assert load_config("smoke", overrides=alone).loss.is_adversarial


def test_set_without_a_key_or_a_value_shows_how() -> None:
    for text in ("train", "=3", ""):
        assert "expected a.b=c, such as train.batch_size=8" in refused("smoke", text)
    assert "not valid YAML" in refused("smoke", "model.front.strides=[2, 3")


def test_a_missing_file_lists_what_there_is(tmp_path: Path) -> None:
    names = "production, smoke, starter, starter-adversarial"
    assert refused("smok").endswith(f"neither a file nor one of {names}; did you mean 'smoke'?")
    assert "no gpu profile 'rtx409'" in refused("smoke", gpu="rtx409")
    assert "did you mean 'rtx4090'?" in refused("smoke", gpu="rtx409")
    assert str(tmp_path / "none.yaml") in refused(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file$"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {seed: 1\n", "not valid YAML"),
        ("train:\n  seed: 1\ntrain:\n  seed: 2\n", "line 3: not valid YAML: key 'train' stands twice"),
        ("- 1\n- 2\n", "expected keys and values at the top, got list"),
        ("hello\n", "expected keys and values at the top, got str"),
        ("data: !!python/object/apply:os.system [true]\n", "data"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    message = refused(path)
    assert message.startswith(str(path))
    assert said in message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert "cannot be read as text" in refused(path)
