"""The teacher: that it is had or asked for in plain words, that its frames are ours, and that book 1 learns from it."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from huggingface_hub import constants
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from codecctl.config.model import ModelConfig, StridedConfig
from codecctl.config.schema import SemanticConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.model.codec import Codec
from codecctl.train.teacher import SemanticHead, Teacher, first_codebook, semantic_loss
from tests.conftest import lively

HOP = 320
TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip  # kernels and strides are the real ones


def save(
    model: transformers.PreTrainedModel, folder: Path, *, sample_rate: int = 16000, normalize: bool = False
) -> str:
    """A teacher on disk, as the hub would bring it."""
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=sample_rate, do_normalize=normalize).save_pretrained(folder)
    return str(folder)


def wavlm(**changes: object) -> WavLMModel:
    torch.manual_seed(0)
    return WavLMModel(WavLMConfig(**{**TINY, **changes}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(wavlm(), tmp_path_factory.mktemp("teacher") / "wavlm")


@pytest.fixture
def teacher(folder: str) -> Teacher:
    return Teacher.load(SemanticConfig(teacher=folder), ModelConfig())


@pytest.fixture(scope="module")
def voices(speech_files: list[Path]) -> Tensor:
    """[4, 1, 16000]: a second from each of four clips."""
    heard = [torch.from_numpy(soundfile.read(path, dtype="float32")[0][16000:32000]) for path in speech_files[:4]]
    return torch.stack(heard)[:, None]


@pytest.fixture
def codec(smoke_model: ModelConfig) -> Codec:
    """Production's hop and rate, tiny widths."""
    return lively(smoke_model).train()


# The convolutions of a teacher whose norm looks at one frame only, so that a frame depends on what it sees and no more.
@pytest.fixture(scope="module")
def local_teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    path = save(wavlm(feat_extract_norm="layer"), tmp_path_factory.mktemp("teacher") / "local")
    return Teacher.load(SemanticConfig(teacher=path), ModelConfig())


def heard_by(teacher: Teacher, audio: Tensor) -> Tensor:
    """[B, 1, L] -> [B, T, C], what the teacher's convolutions say, at the frames that it teaches."""
    said: list[Tensor] = []
    hook = teacher.module.feature_extractor.register_forward_hook(lambda *call: said.append(call[2].mT))
    teacher(audio)
    hook.remove()
    return said[0]


def test_a_click_is_heard_in_the_frame_that_codes_it(local_teacher: Teacher) -> None:
    """From 40 samples after a frame's start to 40 before its end that frame alone hears it; nearer the edge, the two
    frames that meet there do, and nobody else."""
    n_frames = 12
    silence = heard_by(local_teacher, torch.zeros(1, 1, n_frames * HOP))
    assert silence.shape[1] == n_frames
    for frame in (0, 5, n_frames - 1):
        for place, also in [(0, -1), (39, -1), (40, 0), (160, 0), (279, 0), (280, 1), (319, 1)]:
            click = torch.zeros(1, 1, n_frames * HOP)
            click[..., frame * HOP + place] = 0.9
            moved = (heard_by(local_teacher, click) - silence).abs().amax(dim=-1)[0] > 1e-6
            expected = {frame, frame + also} & set(range(n_frames))
            assert set(moved.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("n_samples", [20 * HOP, 20 * HOP - 1, 19 * HOP + 1])
def test_a_click_train_with_the_norm_of_the_real_teacher(teacher: Teacher, n_samples: int) -> None:
    """WavLM base norms over time, so all frames feel a click; those that hear it stand out from the silent ones."""
    clicks = torch.zeros(1, 1, n_samples)
    clicked = [2, 7, 11, 16]
    clicks[..., [frame * HOP + 160 for frame in clicked]] = 0.9
    heard = heard_by(teacher, clicks)[0]
    assert heard.shape[0] == 20
    stands_out = (heard - heard.median(dim=0).values).norm(dim=-1)
    assert sorted(stands_out.topk(4).indices.tolist()) == clicked


def test_the_transformer_keeps_the_frames_in_place(local_teacher: Teacher) -> None:
    """What is taught at a frame changes most where the sound changes: noise in frame 30 of 60."""
    torch.manual_seed(1)
    audio = 0.1 * torch.randn(1, 1, 60 * HOP)
    changed = audio.clone()
    changed[..., 30 * HOP : 31 * HOP] = 0.1 * torch.randn(HOP)
    moved = (local_teacher(changed) - local_teacher(audio)).norm(dim=-1)[0]
    assert moved.argmax() == 30


@pytest.mark.slow
def test_targets_have_the_shape_of_our_frames(teacher: Teacher, codec: Codec) -> None:
    for n_samples in (1, HOP - 1, HOP, 10 * HOP + 7):
        audio = torch.randn(2, 1, n_samples)
        target = teacher(audio)
        assert target.shape == (2, codec.encode(audio).shape[-1], teacher.width)
        assert target.dtype == torch.float32
        assert not target.requires_grad


def test_layers_and_their_mean(folder: str, teacher: Teacher, voices: Tensor) -> None:
    model = ModelConfig()
    layers = [Teacher.load(SemanticConfig.model_validate({"teacher": folder, "layer": i}), model) for i in "012"]
    targets = [layer(voices) for layer in layers]
    torch.testing.assert_close(teacher(voices), (targets[1] + targets[2]) / 2)
    with torch.no_grad():
        direct = layers[2].module(F.pad(voices[:, 0], (40, 40))).last_hidden_state
    assert torch.equal(targets[2], direct)
    with pytest.raises(UsageError, match=r"train\.semantic\.layer: 3, but '.*' has 2 layers"):
        Teacher.load(SemanticConfig(teacher=folder, layer=3), model)


def test_a_teacher_that_wants_normal_input_gets_it(tmp_path: Path, voices: Tensor) -> None:
    """As transformers' own feature extractor would give it, before the alignment's zeros."""
    path = save(HubertModel(HubertConfig(**TINY)), tmp_path, normalize=True)
    teacher = Teacher.load(SemanticConfig(teacher=path, layer=2), ModelConfig())
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(path)
    values = extractor(list(voices[:, 0].numpy()), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        direct = teacher.module(F.pad(values, (40, 40))).last_hidden_state
    torch.testing.assert_close(teacher(voices), direct)
    torch.testing.assert_close(teacher(0.1 * voices), teacher(voices), rtol=1e-2, atol=1e-2)


def test_nothing_moves_the_teacher(teacher: Teacher, voices: Tensor) -> None:
    before = teacher(voices)
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert torch.equal(teacher(voices), before), "dropout and masking are off"
    holder = torch.nn.Module()
    holder.teacher = teacher  # type: ignore[assignment]
    assert not holder.state_dict()
    assert not list(holder.parameters())


def test_autocast_is_followed(teacher: Teacher, voices: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rough = teacher(voices)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, teacher(voices))
    # 0.99 where float32 units do the sums, 0.96 where the processor has units for bfloat16; other voices have 0.56.
    assert F.cosine_similarity(rough, teacher(voices), dim=-1).mean() > 0.95


def test_a_teacher_can_be_planned_without_a_card() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        teacher = Teacher(WavLMModel(WavLMConfig()), "mean", normalize=False)
        target = teacher(torch.randn(2, 1, 16000))
    assert target.shape == (2, 50, 768)
    assert target.device.type == "cuda"


def test_the_semantic_loss_is_its_equation() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 5), torch.randn(2, 7, 5)
    channel = -sum(F.cosine_similarity(a[:, :, d], b[:, :, d]).sigmoid().log().mean() for d in range(5)) / 5
    torch.testing.assert_close(semantic_loss(a, b), channel)
    scaled = a * torch.rand(5).add(0.1)  # the scale of a channel does not matter
    torch.testing.assert_close(semantic_loss(scaled, a), torch.tensor(1.0).sigmoid().log().neg())
    halves = [semantic_loss(a[i : i + 1], b[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(torch.stack(halves).mean(), semantic_loss(a, b))
    silent = torch.zeros(2, 7, 5, requires_grad=True)
    semantic_loss(silent, b).backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


@pytest.mark.slow
def test_semantic_gradient_reaches_the_encoder(codec: Codec, teacher: Teacher, voices: Tensor) -> None:
    output = codec(voices)
    codewords = first_codebook(codec.quantizer, output.latents, output.codes)
    torch.testing.assert_close(codewords, codec.quantizer.decode(output.codes[:, :1]))  # the value is the codewords'
    head = SemanticHead(codewords.shape[1], teacher.width)
    semantic_loss(head(codewords), teacher(voices)).backward()
    for name, parameter in codec.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in codec.decoder.parameters())
    assert head.project.weight.grad is not None


@pytest.mark.slow
def test_the_first_codebook_learns_from_the_teacher(codec: Codec, teacher: Teacher, voices: Tensor) -> None:
    """Encoder and codebooks alone, the projection as it was drawn: what falls, falls in the tokens."""
    torch.manual_seed(0)
    head = SemanticHead(codec.config.transformer.width, teacher.width).requires_grad_(False)
    target = teacher(voices)
    optimizer = torch.optim.Adam(codec.encoder.parameters(), lr=2e-3)
    losses = []
    for step in range(60):  # it does not fall evenly: after 30 some seeds are back where they began
        output = codec(voices)
        loss = semantic_loss(head(first_codebook(codec.quantizer, output.latents, output.codes)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        latents, random = output.latents.detach(), torch.Generator().manual_seed(step)
        orders = codec.quantizer.draw_orders(len(latents) * latents.shape[-1], random, latents.device)
        codec.quantizer.update(latents, output.codes, None, orders)
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] - 0.05


def test_another_rate_or_hop_is_refused(folder: str, tmp_path: Path) -> None:
    fast = save(wavlm(), tmp_path / "fast", sample_rate=24000)
    with pytest.raises(UsageError, match=r"expects 24000 Hz and model.sample_rate is 16000; .*semantic_weight=0"):
        Teacher.load(SemanticConfig(teacher=fast), ModelConfig())
    with pytest.raises(UsageError, match=r"a frame every 320 samples and model.front.strides make 160"):
        Teacher.load(SemanticConfig(teacher=folder), ModelConfig(front=StridedConfig(strides=(2, 2, 5, 8))))


def test_a_model_that_hears_no_samples_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    text = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(UsageError, match="is no encoder of samples; take a WavLM, HuBERT or wav2vec"):
        Teacher.load(SemanticConfig(teacher=save(text, tmp_path)), ModelConfig())


def test_a_broken_folder_is_named(folder: str, tmp_path: Path) -> None:
    with pytest.raises(CodecctlError, match=r"cannot be loaded \(.*config.json.*\); fetch it again") as error:
        Teacher.load(SemanticConfig(teacher=str(tmp_path)), ModelConfig())
    assert "\n" not in str(error.value)
    deeper = json.loads((Path(folder) / "config.json").read_text()) | {"num_hidden_layers": 3}
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(CodecctlError, match=r"lacks the weight 'encoder\.layers\.2\."):
        Teacher.load(SemanticConfig(teacher=str(tmp_path)), ModelConfig())


def test_a_teacher_that_is_not_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CodecctlError, match="out of reach or HF_HUB_OFFLINE") as error:
        Teacher.load(SemanticConfig(), ModelConfig())
    name, commit = SemanticConfig().teacher.split("@")
    assert f"`hf download {name} --revision {commit} --local-dir teachers/wavlm-base-plus`" in str(error.value)
    assert "then --set train.semantic.teacher=teachers/wavlm-base-plus;" in str(error.value)
    assert "--set loss.semantic_weight=0 trains without" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(CodecctlError, match="no such folder, and no name on the hub"):
        Teacher.load(SemanticConfig(teacher=str(tmp_path / "nowhere")), ModelConfig())


def test_what_lies_in_the_cache_is_used_offline(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voices: Tensor, teacher: Teacher
) -> None:
    """By name and commit, as the hub's client lays it down, and with the weights in the older format."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--some--teacher" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        (snapshot / name).write_bytes((Path(folder) / name).read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = SemanticConfig(teacher=f"some/teacher@{commit}")
    with pytest.raises(CodecctlError, match="cannot be loaded"):
        Teacher.load(config, ModelConfig())  # half a download
    torch.save(teacher.module.state_dict(), snapshot / "pytorch_model.bin")
    assert torch.equal(Teacher.load(config, ModelConfig())(voices), teacher(voices))


def test_loading_is_silent_and_leaves_the_loggers_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(wavlm(), tmp_path)
    capfd.readouterr()
    before = logging.getLogger("transformers").level, list(warnings.filters)
    Teacher.load(SemanticConfig(teacher=path), ModelConfig())
    assert capfd.readouterr() == ("", "")
    assert before == (logging.getLogger("transformers").level, list(warnings.filters))
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_the_config_reads_layers_by_number_or_name() -> None:
    assert SemanticConfig.model_validate({"layer": "9"}).layer == 9
    assert SemanticConfig.model_validate({"layer": "mean"}).layer == "mean"
