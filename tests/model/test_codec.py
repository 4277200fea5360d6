"""What the codec promises for whole signals and batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from codecctl.config.load import load_config
from codecctl.config.model import ModelConfig, StridedConfig
from codecctl.config.schema import Config
from codecctl.errors import UsageError
from codecctl.model.codec import Codec
from codecctl.train.losses import ReconstructionLosses


def test_production_is_what_was_promised() -> None:
    with torch.device("meta"):
        codec = Codec(load_config("production").model)
    n_parameters = sum(p.numel() for p in codec.parameters())
    n_codewords = sum(codebook.codewords.numel() for codebook in codec.quantizer.codebooks)
    assert 80e6 < n_parameters < n_parameters + n_codewords < 100e6
    assert (codec.sample_rate, codec.hop_length, codec.frame_rate) == (16000, 320, 50.0)
    assert codec.bitrate_kbps == pytest.approx(50 * (11 + 7 * 10) / 1000) == 4.05
    assert codec.config.quantizer.codebook_sizes == (2048, *[1024] * 7)


@torch.inference_mode()
def test_a_padded_batch_gives_each_item_what_it_gets_alone(tiny_codec: Codec) -> None:
    codec, lengths = tiny_codec.double(), torch.tensor([1, 11, 12, 13, 500])
    items = [torch.randn(1, 1, length, dtype=torch.float64) for length in lengths]
    batch = torch.full((5, 1, 500), 0.3, dtype=torch.float64)  # what lies behind an item must not matter
    for row, item in zip(batch, items, strict=True):
        row[:, : item.shape[-1]] = item[0]
    codes = codec.encode(batch, lengths=lengths)
    n_frames = torch.tensor([codec.n_frames(int(length)) for length in lengths])
    for b, n in enumerate(n_frames):
        codes[b, :, n:] = 9999
    audio = codec.decode(codes, n_frames=n_frames)
    assert torch.equal(codec.decode(codes, n_frames=n_frames, length=30), audio[..., :30])
    for b, item in enumerate(items):
        alone = codec.encode(item)
        assert torch.equal(codes[b : b + 1, :, : alone.shape[-1]], alone)
        decoded = codec.decode(alone)
        n = decoded.shape[-1]
        torch.testing.assert_close(audio[b : b + 1, :, :n], decoded, rtol=0, atol=1e-12)
        assert not audio[b, :, n:].any()


@pytest.mark.parametrize("n_samples", [1, 2, 11, 12, 13, 24, 1001])
def test_any_length_comes_back_as_long_as_it_was(tiny_codec: Codec, n_samples: int) -> None:
    audio = torch.randn(2, 1, n_samples)
    codes = tiny_codec.encode(audio)
    assert codes.shape == (2, 3, tiny_codec.n_frames(n_samples))
    assert tiny_codec.decode(codes, length=n_samples).shape == audio.shape == tiny_codec(audio).audio.shape


def test_fewer_codebooks_are_the_first_ones(tiny_codec: Codec) -> None:
    audio = torch.randn(1, 1, 300)
    for k in (1, 2, 3):
        assert torch.equal(tiny_codec.encode(audio)[:, :k], tiny_codec.encode(audio, n_quantizers=k))


@torch.inference_mode()
def test_encode_and_decode_are_their_steps(tiny_codec: Codec) -> None:
    audio = torch.randn(2, 1, 301)
    latents = tiny_codec.encode_latents(audio)
    assert latents.shape == (2, tiny_codec.config.latent_width, tiny_codec.n_frames(301))
    codes = tiny_codec.quantize(latents, 2)
    assert torch.equal(codes, tiny_codec.encode(audio, n_quantizers=2))
    decoded = tiny_codec.decode_latents(tiny_codec.dequantize(codes), length=301)
    assert torch.equal(decoded, tiny_codec.decode(codes, length=301))


def test_forward_equals_encode_and_decode(tiny_codec: Codec) -> None:
    tiny_codec.double()  # random weights magnify how latents of the same codes round
    audio = torch.randn(2, 1, 300, dtype=torch.float64)
    output = tiny_codec(audio)
    assert torch.equal(output.codes, tiny_codec.encode(audio))
    torch.testing.assert_close(output.audio, tiny_codec.decode(output.codes, length=300), rtol=0, atol=1e-10)
    one_codebook = tiny_codec(audio, torch.tensor([1, 3])).audio[:1]
    torch.testing.assert_close(one_codebook, tiny_codec.decode(output.codes[:1, :1], length=300), rtol=0, atol=1e-5)


@pytest.mark.parametrize("signal", ["silence", "clipped", "dc", "noise", "denormal"])
def test_no_signal_makes_a_nan(smoke_model: ModelConfig, signal: str) -> None:
    noise = torch.randn(1, 1, 16000)
    audio = {
        "silence": torch.zeros(1, 1, 16000),
        "clipped": (100 * noise).clamp(-1, 1),
        "dc": torch.ones(1, 1, 16000),
        "noise": 2 * torch.rand(1, 1, 16000) - 1,
        "denormal": 1e-40 * noise,
    }[signal]
    codec = Codec(smoke_model)
    output = codec(audio)
    losses = ReconstructionLosses(load_config("smoke").loss, 16000, 320)(audio, output.audio)
    total = torch.stack([*losses.values(), output.commitment_loss.mean()]).sum()
    total.backward()
    assert output.audio.isfinite().all()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())


def test_folding_weight_norm_changes_nothing(tiny_codec: Codec) -> None:
    audio = torch.randn(1, 1, 300, dtype=torch.float64)
    before = tiny_codec.double()(audio)
    tiny_codec.fold_weight_norm()
    after = tiny_codec(audio)
    assert torch.equal(before.codes, after.codes)
    torch.testing.assert_close(before.audio, after.audio, rtol=0, atol=1e-12)
    assert not any("parametrizations" in name for name in tiny_codec.state_dict())


def test_every_tensor_of_a_step_lives_on_the_card() -> None:
    """Fake CUDA tensors need no card, and mixing them with a forgotten CPU tensor is an error."""
    config = Config()
    with torch.device("cpu"):
        losses = ReconstructionLosses(config.loss, 16000, 320)  # mel filters look at values: built first, moved then
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            codec = Codec(config.model)
            audio, n_quantizers = torch.zeros(2, 1, 16000), torch.tensor([3, 8])
        for buffer_owner in losses.modules():
            for name, buffer in buffer_owner.named_buffers(recurse=False):
                setattr(buffer_owner, name, torch.empty_like(buffer, device="cuda"))
        with torch.autocast("cuda", torch.bfloat16):
            output = codec(audio, n_quantizers)
        values = losses(audio, output.audio)
        assert {value.device.type for value in values.values()} == {"cuda"}
        assert {output.codes.device.type, output.commitment_loss.device.type} == {"cuda"}
        assert codec.decode(codec.encode(audio)).device.type == "cuda"


def test_bf16_autocast_leaves_the_quantizer_in_single_precision(tiny_codec: Codec) -> None:
    seen = []
    tiny_codec.quantizer.register_forward_hook(lambda _module, _inputs, quantized: seen.append(quantized))
    with torch.autocast("cpu", torch.bfloat16):
        tiny_codec(torch.randn(1, 1, 300))
        linear = next(part for part in tiny_codec.encoder.modules() if isinstance(part, torch.nn.Linear))
        assert linear(torch.randn(5, linear.in_features)).dtype == torch.bfloat16
    assert seen[0].latents.dtype == seen[0].commitment_loss.dtype == torch.float32


@pytest.mark.slow
def test_torch_compile_takes_the_model_whole(tiny: ModelConfig) -> None:
    shallow = tiny.model_copy(  # every kind of layer once: tracing takes a second for each
        update={
            "front": StridedConfig(strides=(2,), base_channels=4, kernel_size=3, dilations=(1,)),
            "transformer": tiny.transformer.model_copy(update={"n_layers": 1}),
        }
    )
    codec, audio = Codec(shallow), torch.randn(2, 1, 240)
    compiled = torch.compile(codec, fullgraph=True, backend="aot_eager")
    output, expected = compiled(audio, torch.tensor([1, 3])), codec(audio, torch.tensor([1, 3]))
    assert torch.equal(output.codes, expected.codes)
    torch.testing.assert_close(output.audio, expected.audio, rtol=0, atol=1e-5)
    output.audio.sum().backward()


@pytest.mark.parametrize(
    "audio", [torch.zeros(16000), torch.zeros(1, 2, 100), torch.zeros(1, 1, 100, dtype=torch.int16)]
)
def test_a_wrong_shape_says_what_is_right(tiny_codec: Codec, audio: Tensor) -> None:
    with pytest.raises(UsageError, match=r"audio must be"):
        tiny_codec.encode(audio)


def test_codebooks_that_the_model_lacks_are_refused(tiny_codec: Codec) -> None:
    with pytest.raises(UsageError, match="1 to 3, got 4"):
        tiny_codec.encode(torch.zeros(1, 1, 24), n_quantizers=4)
    with pytest.raises(UsageError, match="codes must be integers"):
        tiny_codec.decode(torch.zeros(1, 4, 2, dtype=torch.int64))
