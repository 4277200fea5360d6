"""A stream gives what the whole signal gives, however it is cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codecctl.config.model import ModelConfig
from codecctl.errors import UsageError
from codecctl.inference.concealment import Concealment, continue_audio
from codecctl.inference.load import Codec
from codecctl.inference.precision import set_precision
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.model.codec import Codec as ModelCodec


def noise(n_samples: int, batch_size: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 1, n_samples, dtype=torch.float64, generator=generator) / 4


def encode_in_chunks(codec: Codec, audio: Tensor, sizes: Sequence[int], n_quantizers: int | None = None) -> Tensor:
    stream = StreamEncoder(codec, n_quantizers, batch_size=len(audio))
    codes = [stream.push(chunk) for chunk in cut(audio, sizes)]
    return torch.cat([*codes, stream.flush()], dim=-1)


def cut(signal: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Pieces of these sizes along time, and the rest."""
    ends = torch.tensor([0, *sizes]).cumsum(0).clamp(max=signal.shape[-1]).tolist()
    return [signal[..., a:b] for a, b in zip(ends, [*ends[1:], signal.shape[-1]], strict=True)]


@pytest.fixture(scope="module")
def double(model: Path) -> Codec:
    return Codec.load(model, "cpu").double()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 900), max_size=12), st.integers(1, 3000), st.sampled_from([1, 3]))
def test_codes_do_not_depend_on_the_chunks(double: Codec, sizes: list[int], n_samples: int, batch_size: int) -> None:
    audio = noise(n_samples, batch_size)
    assert torch.equal(encode_in_chunks(double, audio, sizes), double.encode(audio))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 90), st.integers(1, 3))
def test_audio_does_not_depend_on_the_chunks(double: Codec, sizes: list[int], n_frames: int, n_quantizers: int) -> None:
    codes = torch.randint(0, 8, (2, n_quantizers, n_frames), generator=torch.Generator().manual_seed(n_frames))
    stream = StreamDecoder(double, batch_size=2)
    audio = torch.cat([stream.push(chunk) for chunk in cut(codes, sizes)], dim=-1)
    assert (audio - double.decode(codes)).abs().max() < 1e-12


def test_two_streams_on_one_model_do_not_touch_each_other(double: Codec) -> None:
    one, two = noise(2000, seed=1), noise(2000, seed=2)
    encoders = StreamEncoder(double), StreamEncoder(double)
    codes: tuple[list[Tensor], list[Tensor]] = ([], [])
    for chunk_one, chunk_two in zip(cut(one, [170] * 11), cut(two, [170] * 11), strict=True):
        codes[0].append(encoders[0].push(chunk_one))
        codes[1].append(encoders[1].push(chunk_two))
    for audio, gathered in ((one, codes[0]), (two, codes[1])):
        assert torch.equal(torch.cat(gathered, dim=-1), double.encode(audio))


def test_fewer_codebooks_are_the_first_ones(double: Codec) -> None:
    audio = noise(777)
    assert torch.equal(encode_in_chunks(double, audio, [100], n_quantizers=2), double.encode(audio)[:, :2])


def test_a_frame_comes_out_with_its_last_sample(codec: Codec) -> None:
    stream, audio = StreamEncoder(codec), noise(200)
    frames = [stream.push(audio[..., n : n + 1]).shape[-1] for n in range(200)]
    assert [n + 1 for n, count in enumerate(frames) if count] == [40, 80, 120, 160, 200]
    assert stream.flush().shape == (1, 3, 0)


@pytest.mark.parametrize(("n_samples", "n_frames"), [(0, 0), (1, 1), (40, 1), (41, 2)])
def test_flush_fills_the_last_frame_and_ends_the_stream(codec: Codec, n_samples: int, n_frames: int) -> None:
    stream = StreamEncoder(codec)
    codes = torch.cat([stream.push(noise(n_samples)), stream.flush()], dim=-1)
    assert codes.shape == (1, 3, n_frames)
    assert stream.n_samples == n_samples
    for again in (stream.flush, lambda: stream.push(noise(1))):
        with pytest.raises(UsageError, match="was flushed"):
            again()


def test_wrong_shapes_and_numbers_of_codebooks_are_refused(codec: Codec) -> None:
    with pytest.raises(UsageError, match=r"audio must be \[2, 1, L\]"):
        StreamEncoder(codec, batch_size=2).push(noise(10))
    with pytest.raises(UsageError, match=r"audio must be \[1, 1, L\]"):
        StreamEncoder(codec).push(torch.zeros(10))
    with pytest.raises(UsageError, match=r"codes must be \[2, K, T\]"):
        StreamDecoder(codec, batch_size=2).push(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"codes must be \[2, K, T\]"):
        StreamDecoder(codec, batch_size=2).push(torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5).bool())
    for n_quantizers in (0, 4):
        with pytest.raises(UsageError, match="must be 1 to 3"):
            StreamEncoder(codec, n_quantizers)


def test_nothing_is_kept_for_gradients(codec: Codec) -> None:
    decoded = StreamDecoder(codec).push(torch.zeros(1, 1, 2, dtype=torch.int64))
    assert not decoded.requires_grad
    (decoded * torch.ones_like(decoded, requires_grad=True)).sum().backward()  # a part of somebody's loss


@pytest.mark.parametrize("traced", [False, True])
def test_calls_may_alternate_between_inference_mode_and_none(codec: Codec, traced: bool) -> None:
    audio = noise(6 * codec.hop_length).float()
    encoder, decoder = codec.stream_encoder(traced=traced), codec.stream_decoder(traced=traced)
    decoded = []
    for t, frame in enumerate(audio.split(codec.hop_length, dim=-1)):
        with torch.inference_mode(t % 2 == 0):
            codes = encoder.push(frame)
            decoded += [decoder.push(codes), decoder.push(None)]
        assert codes.is_inference() == decoded[-2].is_inference() == decoded[-1].is_inference() == (t % 2 == 0)
    with torch.inference_mode(traced):
        encoder.reset(0)
        decoder.reset(0)
    again = encoder.push(audio[..., : codec.hop_length])
    assert torch.allclose(decoder.push(again), decoded[0])


def test_a_codec_can_learn_after_it_has_streamed(smoke_model: ModelConfig) -> None:
    """What a stream leaves behind, such as a table of codewords, can be used where gradients are recorded."""
    codec = ModelCodec(smoke_model)
    audio = noise(4 * codec.hop_length).float()
    StreamEncoder(codec).push(audio)
    codec.decode(codec.encode(audio)).sum().backward()


@pytest.mark.parametrize(("name", "n_frames"), [("strided", 120), ("starter", 25)])  # 120 are twice around its rings
def test_items_of_a_batch_start_at_different_times(double: Codec, name: str, n_frames: int) -> None:
    codec = double if name == "strided" else Codec.load(name, "cpu").double()
    hop, late = codec.hop_length, n_frames // 3
    audio = noise(n_frames * hop, batch_size=2)
    encoder, decoder = codec.stream_encoder(batch_size=2), codec.stream_decoder(batch_size=2)
    codes, decoded = [], []
    for t, frame in enumerate(audio.split(hop, dim=-1)):
        if t == late:
            encoder.reset(1)
            decoder.reset(1)
        codes.append(encoder.push(frame))
        decoded.append(decoder.push(codes[-1]))
    decoded.append(decoder.flush())
    alone = codec.encode(audio[1:, :, late * hop :])
    assert torch.equal(torch.cat(codes, dim=-1)[:1], codec.encode(audio[:1]))
    assert torch.equal(torch.cat(codes, dim=-1)[1:, :, late:], alone)
    assert (torch.cat(decoded, dim=-1)[1:, :, late * hop :] - codec.decode(alone)).abs().max() < 1e-12


def test_frames_that_are_pushed_together_are_the_same(double: Codec) -> None:
    audio = noise(10 * double.hop_length + 3)
    stream = double.stream_encoder(frames_per_push=4)
    codes = [stream.push(chunk) for chunk in audio.split(7, dim=-1)]
    assert {chunk.shape[-1] for chunk in codes} == {0, 4}
    assert torch.equal(torch.cat([*codes, stream.flush()], dim=-1), double.encode(audio))
    with pytest.raises(UsageError, match="frames_per_push 0"):
        double.stream_encoder(frames_per_push=0)


def test_an_item_that_is_not_there_is_refused(double: Codec) -> None:
    for stream in (double.stream_encoder(batch_size=2), double.stream_decoder(batch_size=2)):
        with pytest.raises(UsageError, match="items 0 to 1"):
            stream.reset(2)


def voice(n_samples: int, sample_rate: int = 16000) -> Tensor:
    """[1, 1, L], a buzz of 125 Hz."""
    time = torch.arange(n_samples, dtype=torch.float64) / sample_rate
    return sum((2 * torch.pi * 125 * k * time).sin() / k for k in range(1, 8))[None, None] / 8  # type: ignore[index]


def test_a_lost_frame_of_a_steady_voice_is_nearly_what_was_lost() -> None:
    voiced = voice(1600)[0]
    continued = continue_audio(voiced[:, :1280], 320, 16000)
    assert (continued - voiced[:, 1280:]).norm() < 0.02 * voiced[:, 1280:].norm()


def test_concealment_fades_to_silence_and_recovers() -> None:
    codec = Codec.load("starter", "cpu")
    hop, delay, codes = codec.hop_length, codec.config.delay, codec.encode(voice(60 * 320).float())
    decoder = codec.stream_decoder()
    before = decoder.push(codes[..., :20])
    gap = [decoder.push(None) for _ in range(8)]
    concealed = torch.cat([before, *gap, decoder.push(codes[..., 28:])], dim=-1)
    whole = codec.decode(codes)[..., : concealed.shape[-1]]
    assert torch.equal(before, codec.stream_decoder().push(codes[..., :20]))  # a loss changes nothing before it
    levels = concealed[..., 20 * hop : 28 * hop].unflatten(-1, (8, hop)).norm(dim=-1)[0, 0]
    assert levels[0] > 0.5 * before[..., -hop:].norm()
    assert (levels[1:] <= levels[:-1]).all()
    assert not levels[5:].any()  # after 100 ms
    for part in (slice(20 * hop - delay, 20 * hop), slice(-10 * hop, None)):  # of the frame before, late; and later
        assert (concealed - whole)[..., part].norm() < 0.2 * whole[..., part].norm()


def test_a_gap_in_several_parts_is_as_loud_as_in_one() -> None:
    """A decoder with a delay fills the two parts of a frame one after the other."""
    audio = noise(1600)[:, 0]
    whole, in_parts = (Concealment(1, 16000, audio) for _ in range(2))
    lost, filled = torch.tensor([True]), []
    for concealment in (whole, in_parts):
        concealment.note(audio)
    for n in (80, 240, 80, 240):
        filled.append(in_parts.fill(audio[:, :n], lost))
    levels = [torch.cat(each, dim=-1).square().mean().sqrt() for each in (filled, [whole.fill(audio[:, :640], lost)])]
    assert levels[0] == pytest.approx(float(levels[1]), rel=0.1)


def test_what_a_caller_does_with_its_tensors_does_not_matter() -> None:
    codec = Codec.load("starter", "cpu")
    codes = codec.encode(voice(6 * 320).float())
    pattern, decoded = [False, True, False, True, True, False], []
    for reuse in (False, True):
        decoder, lost, frame = codec.stream_decoder(), torch.zeros(1, 1, dtype=torch.bool), codes[..., :1].clone()
        audio = []
        for t, is_lost in enumerate(pattern):
            if not reuse:
                lost, frame = lost.clone(), frame.clone()
            lost.fill_(is_lost)
            frame.copy_(codes[..., t : t + 1])
            audio.append(decoder.push(frame, lost) if is_lost else decoder.push(frame))
        decoded.append(torch.cat([*audio, decoder.flush()], dim=-1))
    assert torch.equal(*decoded)


def test_the_late_samples_of_a_lost_frame_are_concealed_at_the_end() -> None:
    codec = Codec.load("starter", "cpu")
    codes = codec.encode(voice(20 * 320).float())
    decoder = codec.stream_decoder()
    pushed = [decoder.push(codes), *(decoder.push(None) for _ in range(6))]
    assert pushed[1].any()
    ended = decoder.flush()
    assert ended.shape[-1] == codec.config.delay > 0
    assert not ended.any()


def test_lost_frames_in_one_item_do_not_touch_another(double: Codec) -> None:
    codes = torch.randint(0, 8, (2, 3, 30), generator=torch.Generator().manual_seed(0))
    lost = torch.zeros(2, 30, dtype=torch.bool)
    lost[1, [4, 5, 12]] = True
    for sizes in ([], [1] * 29, [5, 0, 2]):
        stream = double.stream_decoder(batch_size=2)
        pieces = zip(cut(codes, sizes), cut(lost, sizes), strict=True)
        audio = torch.cat([stream.push(*piece) for piece in pieces], dim=-1)
        assert (audio[:1] - double.decode(codes[:1])).abs().max() < 1e-12
        if not sizes:
            whole = audio
        assert (audio - whole).abs().max() < 1e-12  # the chunks do not matter
    assert not torch.allclose(whole[1:], double.decode(codes[1:]))
    none_used = codes.masked_fill(lost[:, None], 99)  # no codeword: never looked at
    assert torch.equal(double.stream_decoder(batch_size=2).push(none_used, lost), whole)
    assert torch.equal(double.stream_decoder(batch_size=2).push(none_used.to(torch.uint16), lost), whole)
    assert torch.equal(double.valid_frames(none_used), ~lost)


@pytest.mark.parametrize("traced", [False, True])
def test_codes_that_are_refused_after_a_loss_leave_the_stream_as_it_was(codec: Codec, traced: bool) -> None:
    codes = torch.ones(1, 3, 5, dtype=torch.int64)
    wrong, decoded = codes.clone(), []
    wrong[0, 1, 3] = 99
    for pushed in ([None, codes], [None, wrong, codes]):
        stream = codec.stream_decoder(traced=traced)
        stream.push(codes)
        for each in pushed:
            with pytest.raises(UsageError) if each is wrong else nullcontext():
                audio = stream.push(each)
        decoded.append(audio)
    assert torch.equal(*decoded)


def test_an_item_that_starts_anew_is_silent_where_its_first_frames_are_lost(double: Codec) -> None:
    stream = double.stream_decoder(batch_size=2)
    assert not stream.push(None).any()
    stream.push(torch.ones(2, 3, 5, dtype=torch.int64))
    stream.reset(1)
    audio = stream.push(None)
    assert audio[0].any()
    assert not audio[1].any()


def test_a_mask_of_another_shape_is_refused(double: Codec) -> None:
    codes = torch.zeros(2, 3, 5, dtype=torch.int64)
    for lost in (torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 5)):
        with pytest.raises(UsageError, match=r"lost must be booleans \[2, 5\]"):
            double.stream_decoder(batch_size=2).push(codes, lost)


@pytest.mark.parametrize(("name", "n_frames"), [("strided", 120), ("starter", 25)])
def test_a_traced_stream_is_the_same(double: Codec, name: str, n_frames: int) -> None:
    codec = double if name == "strided" else Codec.load(name, "cpu").double()
    audio = noise(n_frames * codec.hop_length, batch_size=2)
    encoder, decoder = codec.stream_encoder(2, traced=True), codec.stream_decoder(2, traced=True)
    codes = [encoder.push(audio[..., : 3 * codec.hop_length])]  # not a single frame: not by the graph
    codes += [encoder.push(frame) for frame in audio[..., 3 * codec.hop_length :].split(codec.hop_length, dim=-1)]
    whole = codec.encode(audio)
    assert torch.equal(torch.cat(codes, dim=-1), whole)
    decoded = torch.cat([decoder.push(frame) for frame in whole.split(1, dim=-1)], dim=-1)
    n_late = audio.shape[-1] - decoded.shape[-1]
    assert (decoded - codec.decode(whole)[..., : decoded.shape[-1]]).abs().max() < 1e-12
    encoder.reset(1)
    decoder.reset(1)
    again = encoder.push(audio[..., : codec.hop_length])
    assert torch.equal(again[1], whole[1, :, :1])
    anew = decoder.push(again)[1, :, n_late:]
    assert (anew - codec.decode(whole[1:, :, :1])[0, :, : anew.shape[-1]]).abs().max() < 1e-12


@pytest.mark.parametrize("wrong", [-1, 64])
def test_a_traced_stream_refuses_codes_that_the_model_does_not_have(codec: Codec, wrong: int) -> None:
    decoder, codes = codec.stream_decoder(traced=True), torch.ones(1, 3, 1, dtype=torch.int64)
    audio = decoder.push(codes)
    with pytest.raises(UsageError, match="codebook 1 has codes from 0 to 63"):
        decoder.push(torch.full_like(codes, wrong))
    with pytest.raises(UsageError, match=r"codes must be integers \[B, 1 to 3, T\]"):
        decoder.push(codes.float())
    again = codec.stream_decoder()
    assert torch.allclose(torch.cat([audio, decoder.push(codes)], dim=-1), again.push(codes.repeat(1, 1, 2)), atol=1e-6)


@pytest.mark.slow
def test_traced_streams_share_a_graph_until_the_weights_change(model: Path) -> None:
    codec = Codec.load(model, "cpu")
    frame, codes = noise(codec.hop_length).float(), torch.ones(1, 3, 1, dtype=torch.int64)
    encoder, decoder = codec.stream_encoder(traced=True), codec.stream_decoder(traced=True)
    assert codec.stream_encoder(traced=True)._step is encoder._step
    assert codec.stream_decoder(traced=True)._step is decoder._step
    assert codec.stream_encoder(n_quantizers=2, traced=True).push(frame).shape == (1, 2, 1)
    assert torch.equal(copy.deepcopy(codec).stream_decoder(traced=True).push(codes), decoder.push(codes))
    codec.decoder.load_state_dict({name: weight / 2 for name, weight in codec.decoder.state_dict().items()})
    assert torch.allclose(codec.stream_decoder(traced=True).push(codes), codec.decode(codes), atol=1e-6)
    assert codec.stream_encoder(traced=True)._step is encoder._step  # whose weights are the same
    set_precision(codec, "bfloat16")
    assert codec.stream_encoder(traced=True)._step is not encoder._step
