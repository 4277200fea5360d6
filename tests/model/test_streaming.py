"""A stream gives what the whole signal gives, however it is cut, and streams do not touch each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.config.load import load_config
from codecctl.errors import UsageError
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.model.causal import StreamState
from codecctl.model.codec import Codec
from codecctl.model.transformer import CausalAttention
from tests.conftest import lively


@torch.inference_mode()
def encode_in_chunks(codec: Codec, audio: Tensor, n_frames: int) -> Tensor:
    state = StreamState()
    return torch.cat([codec.encode(chunk, state=state) for chunk in audio.split(n_frames * codec.hop_length, -1)], -1)


@torch.inference_mode()
def decode_in_chunks(codec: Codec, codes: Tensor, n_frames: int) -> Tensor:
    stream = StreamDecoder(codec, batch_size=len(codes))
    return torch.cat([*(stream.push(chunk) for chunk in codes.split(n_frames, -1)), stream.flush()], -1)


@pytest.mark.parametrize("n_frames", [1, 2, 5, 7, 50])
def test_double_precision_streams_equal_the_whole(tiny_codec: Codec, n_frames: int) -> None:
    codec = tiny_codec.double()
    audio = torch.randn(2, 1, 100 * codec.hop_length, dtype=torch.float64)
    codes = codec.encode(audio)
    assert torch.equal(encode_in_chunks(codec, audio, n_frames), codes)
    torch.testing.assert_close(decode_in_chunks(codec, codes, n_frames), codec.decode(codes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_frames", [1, 7])
def test_single_precision_streams_equal_the_whole_on_speech(smoke_model, speech: Tensor, n_frames: int) -> None:
    codec = lively(smoke_model)
    speech = speech[..., : 320 * (speech.shape[-1] // 320)]
    codes = codec.encode(speech)
    assert (encode_in_chunks(codec, speech, n_frames) != codes).sum() <= 8  # one frame whose first code is a tie
    torch.testing.assert_close(decode_in_chunks(codec, codes, n_frames), codec.decode(codes), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_production_shape_streams(speech: Tensor) -> None:
    codec = lively(load_config("production").model)
    speech = speech[..., : 320 * 60]
    codes = codec.encode(speech)
    assert codes.shape == (1, 8, 60)
    assert (encode_in_chunks(codec, speech, 7) != codes).sum() <= 8
    torch.testing.assert_close(decode_in_chunks(codec, codes, 7), codec.decode(codes), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_interleaved_streams_do_not_touch_each_other(tiny_codec: Codec) -> None:
    first, second = torch.randn(2, 1, 1, 40 * tiny_codec.hop_length)
    states = StreamState(), StreamState()
    got: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pieces in zip(*(audio.split(4 * tiny_codec.hop_length, -1) for audio in (first, second)), strict=True):
        for piece, state, codes in zip(pieces, states, got, strict=True):
            codes.append(tiny_codec.encode(piece, state=state))
    assert torch.equal(torch.cat(got[0], -1), tiny_codec.encode(first))
    assert torch.equal(torch.cat(got[1], -1), tiny_codec.encode(second))


@torch.inference_mode()
def test_a_stream_remembers_no_more_after_a_minute_than_after_a_second(tiny_codec: Codec) -> None:
    def remembered(state: StreamState) -> int:
        return sum(past.untyped_storage().nbytes() for past in state.past.values())

    state, sizes = StreamState(), []
    for _ in range(40):
        tiny_codec.encode(torch.randn(1, 1, 5 * tiny_codec.hop_length), state=state)
        sizes.append(remembered(state))
    assert sizes[2] == sizes[-1]  # 15 frames are past the look-back of 9


@torch.inference_mode()
def test_the_future_changes_nothing_before_it(tiny_codec: Codec) -> None:
    hop = tiny_codec.hop_length
    audio = torch.randn(1, 1, 60 * hop)
    other = audio.clone()
    other[..., 30 * hop :] += 1
    codes, changed = tiny_codec.encode(audio), tiny_codec.encode(other)
    assert torch.equal(codes[..., :30], changed[..., :30])
    assert not torch.equal(codes[..., 30:], changed[..., 30:])
    decoded, changed_audio = tiny_codec.decode(codes), tiny_codec.decode(changed)
    n_equal = 30 * hop - tiny_codec.config.delay
    torch.testing.assert_close(decoded[..., :n_equal], changed_audio[..., :n_equal], rtol=0, atol=1e-5)
    assert (decoded - changed_audio)[..., n_equal : 30 * hop].any() == bool(tiny_codec.config.delay)


@torch.inference_mode()
def test_a_frame_sees_exactly_the_look_back(tiny_codec: Codec) -> None:
    attention = next(part for part in tiny_codec.encoder.modules() if isinstance(part, CausalAttention))
    x = torch.randn(1, 30, 16)
    reached = x.clone()
    reached[:, 20 - 9] += 1
    beyond = x.clone()
    beyond[:, 20 - 10] += 1
    assert not torch.allclose(attention(x)[:, 20], attention(reached)[:, 20])
    torch.testing.assert_close(attention(x)[:, 20], attention(beyond)[:, 20])


def test_a_stream_that_was_flushed_starts_anew_with_a_reset_of_all_items(tiny_codec: Codec) -> None:
    audio = torch.randn(2, 1, 9 * tiny_codec.hop_length + 5)
    encoder, decoder = StreamEncoder(tiny_codec, batch_size=2), StreamDecoder(tiny_codec, batch_size=2)
    results = []
    for _ in range(2):
        codes = torch.cat([encoder.push(audio), encoder.flush()], dim=-1)
        results.append((codes, torch.cat([decoder.push(codes), decoder.push(None), decoder.flush()], dim=-1)))
        assert encoder.n_samples == audio.shape[-1]
        again = [lambda: encoder.push(audio), encoder.flush, lambda: encoder.reset(1)]
        again += [lambda: decoder.push(None), decoder.flush, lambda: decoder.reset(1)]
        for call in again:
            with pytest.raises(UsageError, match=r"was flushed and has ended; reset\(\) starts"):
                call()
        encoder.reset()
        decoder.reset()
    assert all(map(torch.equal, *results))
