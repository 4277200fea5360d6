"""What callers may hand to a codec: the right answer, or an error that says what to do."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from codecctl.errors import UsageError
from codecctl.inference.stream import StreamEncoder
from codecctl.model.codec import Codec


@pytest.fixture
def audio(tiny_codec: Codec) -> Tensor:
    return 0.1 * torch.randn(2, 1, 20 * tiny_codec.hop_length)


def test_double_precision_gives_the_same_codes(tiny_codec: Codec, audio: Tensor) -> None:
    assert torch.equal(tiny_codec.encode(audio.double()), tiny_codec.encode(audio))


def test_codes_and_audio_do_not_depend_on_an_outer_autocast(tiny_codec: Codec, audio: Tensor) -> None:
    codes = tiny_codec.encode(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiny_codec.encode(audio), codes)
        decoded = tiny_codec.decode(codes)
    assert torch.equal(decoded, tiny_codec.decode(codes))


def test_audio_that_is_no_sound_is_refused(tiny_codec: Codec, audio: Tensor) -> None:
    with pytest.raises(UsageError, match=r"got torch.int16; for 16-bit samples: audio / 32768"):
        StreamEncoder(tiny_codec, batch_size=2).push((audio * 32768).short())
    with pytest.raises(UsageError, match=r"\[2, 2, 240\]; .*audio.mean\(1, keepdim=True\)"):
        tiny_codec.encode(audio.expand(2, 2, -1))
    with pytest.raises(UsageError, match=r"\[240\]; .*audio.reshape\(1, 1, -1\)"):
        tiny_codec.encode(audio[0, 0])


def test_one_nan_is_refused_and_the_stream_goes_on(tiny_codec: Codec, audio: Tensor) -> None:
    stream = StreamEncoder(tiny_codec, batch_size=2)
    first, rest = audio.split([100, 140], dim=-1)
    codes = [stream.push(first)]
    with pytest.raises(UsageError, match="NaN or infinite"):
        stream.push(rest.clone().fill_(torch.nan))
    codes += [stream.push(rest), stream.flush()]
    assert torch.equal(torch.cat(codes, dim=-1), tiny_codec.encode(audio))


def test_samples_whose_sum_is_infinite_are_finite(tiny_codec: Codec) -> None:
    assert tiny_codec.check_audio(torch.full((1, 1, 4), 2e38)).sum().isinf()
    with pytest.raises(UsageError, match="NaN or infinite"):
        tiny_codec.check_audio(torch.tensor([[[torch.inf, -torch.inf]]]))
    with pytest.raises(UsageError, match="finite"):  # in the model's precision
        tiny_codec.check_audio(torch.full((1, 1, 4), 1e300, dtype=torch.float64))


@pytest.mark.parametrize("lengths", [[240], [240, 241], [-1, 240], [1.0, 0.5], [[240, 240]]])
def test_lengths_that_the_batch_does_not_have_are_refused(tiny_codec: Codec, audio: Tensor, lengths: list[int]) -> None:
    with pytest.raises(UsageError, match=r"lengths must be integers \[2\], 0 to 240; got"):
        tiny_codec.encode(audio, lengths=torch.tensor(lengths))
    with pytest.raises(UsageError, match=r"n_frames must be integers \[2\], 0 to 3; got"):
        tiny_codec.decode(torch.zeros(2, 3, 3, dtype=torch.int64), n_frames=torch.tensor(lengths))


def test_what_is_in_the_padding_does_not_matter(tiny_codec: Codec, audio: Tensor) -> None:
    padded, lengths = audio.clone(), torch.tensor([240, 100])
    padded[1, :, 100:] = torch.nan
    assert torch.equal(tiny_codec.encode(padded, lengths=lengths), tiny_codec.encode(audio, lengths=lengths))


@pytest.mark.parametrize("length", [-5, 37])
def test_a_length_that_the_codes_do_not_have_is_refused(tiny_codec: Codec, length: int) -> None:
    with pytest.raises(UsageError, match=f"length must be 0 to 36, the samples of 3 frames; got {length}"):
        tiny_codec.decode(torch.zeros(1, 3, 3, dtype=torch.int64), length=length)


def test_no_items_are_no_items(tiny_codec: Codec) -> None:
    codes = tiny_codec.encode(torch.zeros(0, 1, 25), n_quantizers=2)
    assert codes.shape == (0, 2, 3)
    assert tiny_codec.decode(codes).shape == (0, 1, 36)
    assert tiny_codec.decode(codes, length=25).shape == (0, 1, 25)


@pytest.mark.parametrize(("codebook", "code"), [(0, 32), (1, 16), (2, -1)])
def test_codes_out_of_range_are_refused(tiny_codec: Codec, codebook: int, code: int) -> None:
    codes = torch.zeros(2, 3, 4, dtype=torch.int64)
    codes[1, codebook, 2] = code
    size = (32, 16, 16)[codebook]
    found = f"codebook {codebook + 1} has codes from 0 to {size - 1}, but frame 2 of item 1 holds {code}; made"
    with pytest.raises(UsageError, match=found):
        tiny_codec.decode(codes)
    assert (~tiny_codec.valid_frames(codes)).nonzero().tolist() == [[1, 2]]
    with pytest.raises(UsageError, match="must be integers"):
        tiny_codec.decode(codes.float())
    assert tiny_codec.decode(codes.clamp(0, 15).to(torch.uint16)).isfinite().all()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_works_or_is_refused(tiny_codec: Codec, audio: Tensor, precision: torch.dtype) -> None:
    half, codes = copy.deepcopy(tiny_codec).to(precision), tiny_codec.encode(audio.to(precision))
    for encode in (half.encode, StreamEncoder(half, batch_size=2).push):
        with pytest.raises(UsageError, match="load it in float32"):  # float() keeps the rounding
            encode(audio)
    has_fourier = tiny_codec.config.front.kind in ("transform", "refined")  # which there is not in half precision
    with pytest.raises(UsageError, match=r"codec.float\(\) can") if has_fourier else nullcontext():
        assert half.decode(codes).isfinite().all()
