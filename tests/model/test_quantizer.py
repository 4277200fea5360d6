"""Codebooks that start, follow, revive and pass gradients on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.config.model import QuantizerConfig
from codecctl.model.beam import smallest as smallest_of
from codecctl.model.codebook import Codebook
from codecctl.model.codec import Codec
from codecctl.model.quantizer import ResidualVectorQuantizer


def rvq(*sizes: int, width: int = 8, **settings: float) -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    return ResidualVectorQuantizer(QuantizerConfig(codebook_sizes=sizes, **settings), width)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def update(
    quantizer: ResidualVectorQuantizer, latents: Tensor, codes: Tensor, n_quantizers: Tensor | None = None
) -> None:
    n_vectors = len(latents) * latents.shape[-1]
    quantizer.update(latents, codes, n_quantizers, quantizer.draw_orders(n_vectors, seeded(), latents.device))


def test_search_finds_the_nearest_codeword() -> None:
    codebook, x = Codebook(8, 32), torch.randn(100, 8)
    assert torch.equal(codebook.search(x), torch.cdist(x, codebook.codewords).argmin(-1))


def test_the_gradient_reaches_the_encoder_through_every_codebook(tiny_codec: Codec) -> None:
    first = next(parameter for parameter in tiny_codec.encoder.parameters() if parameter.dim() > 1)
    audio = torch.randn(1, 1, 240)
    for k in range(3):
        through_commitment = tiny_codec(audio).commitment_loss[k]
        through_audio = tiny_codec(audio, torch.tensor([k + 1])).audio.square().mean()
        for loss in (through_commitment, through_audio):
            (gradient,) = torch.autograd.grad(loss, [first])
            assert gradient.abs().max() > 0


def test_straight_through_passes_the_gradient_unchanged() -> None:
    latents = torch.randn(2, 8, 5, requires_grad=True)
    weight = torch.randn(2, 8, 5)
    (rvq(16, 16)(latents).latents * weight).sum().backward()
    torch.testing.assert_close(latents.grad, weight)


def test_more_codebooks_reduce_the_error() -> None:
    quantizer, latents = rvq(64, 64, 64), torch.randn(1, 8, 500)
    quantizer.fit(latents[0].mT, seeded())
    left = [(latents - quantizer.decode(quantizer.encode(latents, k))).square().mean() for k in (1, 2, 3)]
    assert left[0] > 1.5 * left[1] > 2.25 * left[2]


def test_kmeans_finds_clusters() -> None:
    centres = 10 * torch.randn(8, 8)
    vectors = centres[torch.randint(8, (2000,))] + 0.01 * torch.randn(2000, 8)
    quantizer = rvq(32)
    quantizer.fit(vectors, seeded())
    distance = torch.cdist(centres, quantizer.codebooks[0].codewords).min(dim=-1).values
    assert distance.max() < 0.1


def test_kmeans_takes_fewer_vectors_than_codewords() -> None:
    quantizer, vectors = rvq(64), torch.randn(20, 8)
    quantizer.fit(vectors, seeded())
    assert (vectors - quantizer.decode(quantizer.encode(vectors.mT[None]))[0].mT).abs().max() < 1e-5


def test_an_update_moves_a_codeword_by_the_textbook_rule() -> None:
    quantizer = rvq(2, ema_decay=0.9)
    (codebook,) = quantizer.codebooks
    codebook.set_codewords(torch.arange(2), torch.tensor([[0.0] * 8, [10.0] * 8]), 1.0)
    vectors = torch.full((1, 8, 4), 1.0)  # four hits on codeword 0
    update(quantizer, vectors, quantizer.encode(vectors))
    torch.testing.assert_close(codebook.cluster_size, torch.tensor([0.9 + 0.1 * 4, 0.9]))
    torch.testing.assert_close(codebook.codewords[0], torch.full((8,), 0.1 * 4 / (0.9 + 0.1 * 4)))
    torch.testing.assert_close(codebook.codewords[1], torch.full((8,), 10.0))


def test_revival_resets_every_buffer_of_a_dead_codeword() -> None:
    quantizer, vectors = rvq(32, ema_decay=0.5, revive_below=0.1), torch.randn(1, 8, 4000)
    (codebook,) = quantizer.codebooks
    quantizer.fit(vectors[0].mT, seeded())
    codebook.set_codewords(torch.tensor([5]), torch.full((1, 8), 1000.0), 1.0)  # nothing is near it
    for _ in range(4):
        update(quantizer, vectors, quantizer.encode(vectors))
    assert codebook.codewords[5].abs().max() < 10
    torch.testing.assert_close(codebook.codeword_sum[5], codebook.codewords[5] * codebook.cluster_size[5])
    assert (quantizer.encode(vectors)[:, 0] == 5).any()


def test_dead_codewords_share_what_a_popular_one_wins() -> None:
    quantizer, vectors = rvq(16, width=32, ema_decay=0.9), torch.randn(1, 32, 4000, generator=seeded())
    (codebook,) = quantizer.codebooks
    codebook.set_codewords(torch.arange(16), torch.full((16, 32), 1000.0), 1.0)
    codebook.set_codewords(torch.tensor([3]), torch.zeros(1, 32), 1.0)  # wins everything
    for _ in range(20):
        update(quantizer, vectors, quantizer.encode(vectors))
    hits = torch.bincount(quantizer.encode(vectors).flatten(), minlength=16)
    assert hits.min() > 0.5 * hits.float().mean()


def test_dropped_codebooks_neither_learn_nor_lose(tiny_codec: Codec) -> None:
    quantizer, latents = rvq(16, 16), torch.randn(3, 8, 50)
    n_quantizers = torch.tensor([1, 1, 1])
    before = quantizer.codebooks[1].codewords.clone()
    quantized = quantizer(latents, n_quantizers)
    update(quantizer, latents, quantized.codes, n_quantizers)
    assert quantized.commitment_loss[1] == 0
    assert torch.equal(quantizer.codebooks[1].codewords, before)


@pytest.mark.slow
def test_the_forward_pass_changes_no_buffer() -> None:
    quantizer = rvq(16, 16).train()
    before: list[Tensor] = [buffer.clone() for buffer in quantizer.buffers()]
    quantizer(torch.randn(2, 8, 50))
    assert all(map(torch.equal, before, quantizer.buffers()))


def test_a_wider_beam_reduces_the_error() -> None:
    latents = torch.randn(2, 8, 100, generator=torch.Generator().manual_seed(0))
    errors = []
    for beam_width in (1, 2, 16):
        quantizer = rvq(16, 16, 16)
        quantizer.config = quantizer.config.model_copy(update={"beam_width": beam_width})
        codes = quantizer.encode(latents)
        errors.append((quantizer.decode(codes) - latents).square().mean().item())
        assert torch.equal(quantizer(latents).codes, codes)
    assert errors[0] > errors[1] > errors[2]


def test_a_beam_of_one_is_the_greedy_search() -> None:
    quantizer, latents = rvq(16, 16, 16), torch.randn(2, 8, 100)
    assert torch.equal(
        quantizer._search_beam(latents.mT.flatten(0, 1), None).reshape(2, 100, 3).mT, quantizer.encode(latents)
    )


def loud_and_soft(n_frames: int) -> Tensor:
    """[1, 8, T] of all levels over 40 dB."""
    levels = 10 ** -(2 * torch.rand(n_frames, generator=seeded()))
    return torch.randn(1, 8, n_frames, generator=torch.Generator().manual_seed(5)) * levels


def relative_error(quantizer: ResidualVectorQuantizer, latents: Tensor) -> float:
    """Median over the frames."""
    error = quantizer.decode(quantizer.encode(latents)) - latents
    return float((error.square().sum(dim=1) / latents.square().sum(dim=1)).median())


def test_with_gains_soft_frames_are_coded_as_finely_as_loud_ones() -> None:
    latents = loud_and_soft(8000)
    for beam_width in (1, 4):
        plain, shaped = rvq(64, 64, 64, beam_width=beam_width), rvq(64, 64, 64, beam_width=beam_width, gain=True)
        for quantizer in (plain, shaped):
            quantizer.fit(latents[0].mT, seeded())
        assert relative_error(shaped, latents) < 0.6 * relative_error(plain, latents)


def test_with_gains_the_forward_pass_equals_decoding() -> None:
    quantizer, latents = rvq(16, 16, 16, gain=True, beam_width=4), loud_and_soft(200)
    quantizer.fit(latents[0].mT, seeded())
    quantized = quantizer(latents)
    torch.testing.assert_close(quantized.latents, quantizer.decode(quantized.codes))
    assert torch.equal(quantized.codes, quantizer.encode(latents))
    greedy = rvq(16, 16, 16, gain=True)
    greedy.load_state_dict(quantizer.state_dict())
    assert torch.equal(greedy.encode(latents), greedy._search_beam(latents[0].mT, None).mT[None])


def test_gains_follow_what_the_first_codebook_leaves_over() -> None:
    quantizer, latents = rvq(2, 4, gain=True, ema_decay=0.5, revive_below=0), torch.ones(1, 8, 6)
    quantizer.codebooks[0].codewords.copy_(torch.stack([torch.zeros(8), torch.full((8,), 9.0)]))
    codes = quantizer.encode(latents)
    assert not codes[:, 0].any()  # each is 1 away from the first codeword in every direction
    before = quantizer.left_over.clone()
    update(quantizer, latents, codes)
    torch.testing.assert_close(quantizer.left_over, 0.5 * before + 0.5 * torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(quantizer.gains, (quantizer.left_over / quantizer.codebooks[0].cluster_size).sqrt())


def test_silence_that_the_first_codebook_hits_exactly_has_a_gain() -> None:
    quantizer = rvq(2, 4, gain=True)
    quantizer.fit(torch.zeros(100, 8), seeded())
    assert bool((quantizer.gains > 0).all())
    assert bool(quantizer.decode(quantizer.encode(torch.zeros(1, 8, 3))).isfinite().all())


def test_the_search_over_blocks_finds_what_sorting_everything_finds() -> None:
    errors = torch.randn(7, 5, 64, generator=seeded())
    everything = errors.flatten(1)
    for n in (1, 3, 19, 20, 400):
        smallest, where = smallest_of(errors, n)
        assert torch.equal(smallest, everything.sort(dim=1).values[:, : min(n, 320)])
        assert torch.equal(everything.gather(1, where), smallest)


def test_a_changed_codebook_is_searched_as_it_is_now() -> None:
    codebook, x = Codebook(8, 16), torch.randn(5, 8)
    for change in (Tensor.neg_, Tensor.double, Tensor.neg):
        codebook.search(x.to(codebook.codewords))  # what is kept for the next search is kept now
        codebook.codewords = change(codebook.codewords)
        now = x.to(codebook.codewords)
        assert torch.equal(codebook.search(now), torch.cdist(now, codebook.codewords).argmin(-1))
