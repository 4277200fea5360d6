"""Residual vector quantization with codebooks that follow a moving average of the vectors they win.

The forward pass changes no state: it compiles whole, and a skipped step leaves no trace. The trainer calls `fit` at the
start and `update` after a step; only these change the codebooks. No value is read on the host: shapes do not depend on
the contents of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from codecctl.config.model import QuantizerConfig
from codecctl.model.beam import Beam
from codecctl.model.codebook import Codebook

# A revived codeword starts this share of the way from a live one to a vector of it; on the vector it wins few others.
_REVIVAL_SHARE = 0.3
_MIN_GAIN = 1e-3  # where the first codeword means silence, its residual is zero
_SEARCH_FRAMES = 64  # of a beam search at a time: its distances stay in the processor's cache
_CARD_SEARCH_FRAMES = 4096  # a card wants few large kernels; 0.2 GB of distances at a beam width of 12


@dataclass(frozen=True)
class Quantized:
    latents: Tensor  # [B, D, T] sum of the chosen codewords, straight-through
    codes: Tensor  # [B, K, T] int64
    commitment_loss: Tensor  # [K] mean squared distance of each codebook's input to the chosen codeword


class ResidualVectorQuantizer(nn.Module):
    """A stack of codebooks, each coding the residual of the ones before (Zeghidour et al. 2021, algorithm 1).

    With `config.gain` each codeword of the first codebook has a gain, the root mean square of its residuals, by which
    the codewords of the later codebooks are multiplied: soft frames are coded as finely, relative to their level, as
    loud ones (gain-shape quantization, Gersho and Gray 1992, chapter 12, without bits for the gain).
    """

    codebooks: Sequence[Codebook]
    gains: Tensor  # [V] of the first codebook's codewords; with `config.gain` only
    left_over: Tensor  # [V] running sums of the squared residuals, beside `cluster_size`

    def __init__(self, config: QuantizerConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.gain:
            self.register_buffer("gains", torch.ones(config.codebook_sizes[0]))
            self.register_buffer("left_over", torch.ones(config.codebook_sizes[0]))
        self.codebooks = nn.ModuleList(Codebook(width, size) for size in config.codebook_sizes)  # type: ignore[assignment]

    def forward(self, latents: Tensor, n_quantizers: Tensor | None = None) -> Quantized:
        """[B, D, T] -> `Quantized`, in float32 or wider. `n_quantizers` [B]: the codebooks of each item; None: all."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents if latents.dtype == torch.float64 else latents.float()
            target = latents.mT  # [B, T, D]
            codes = self.encode(latents.detach())
            residual, losses = target, []
            for k, chosen in enumerate(self._chosen(codes)):
                used = None if n_quantizers is None else (n_quantizers > k).to(target)[:, None, None]  # [B, 1, 1]
                losses.append(_mean_square(residual - chosen, used))
                residual = residual - (chosen if used is None else chosen * used)
            quantized = target - residual.detach()  # straight-through: value of the chosen sum, gradient of the latents
            return Quantized(quantized.mT, codes, torch.stack(losses))

    def encode(self, latents: Tensor, n_quantizers: int | None = None) -> Tensor:
        """[B, D, T] -> [B, K, T], K = `n_quantizers` or all codebooks."""
        if self.config.beam_width == 1:
            return self._search_greedily(latents, n_quantizers)
        frames = latents.mT.flatten(0, 1)
        n_at_once = _CARD_SEARCH_FRAMES if frames.is_cuda else _SEARCH_FRAMES
        codes = torch.cat([self._search_beam(part, n_quantizers) for part in torch.split(frames, n_at_once)])
        return codes.view(len(latents), -1, codes.shape[-1]).mT

    def _search_greedily(self, latents: Tensor, n_quantizers: int | None) -> Tensor:
        """[B, D, T] -> [B, K, T]: the nearest codeword of each codebook in turn."""
        residual, codes = latents.mT, []
        for k, codebook in enumerate(self.codebooks[:n_quantizers]):
            codes.append(codebook.search(residual))
            residual = residual - codebook.lookup(codes[-1])
            if k == 0:
                residual = residual / self._gain(codes[0])[..., None]
        return torch.stack(codes, dim=1)

    def _search_beam(self, target: Tensor, n_quantizers: int | None) -> Tensor:
        """[N, D] -> [N, K]: the best sequence of a beam search. Decoding is the same as for a greedy search."""
        codebooks = self.codebooks[:n_quantizers]
        beam = Beam.start(target)
        for k, codebook in enumerate(codebooks):
            beam = beam.extend(codebook, self.config.beam_width if k + 1 < len(codebooks) else 1)
            if k == 0:
                beam = beam.scaled(self._gain(beam.codes[..., 0]))
        return beam.codes[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """[B, K, T] -> [B, D, T], with the first K codebooks."""
        return sum(self._chosen(codes)).mT  # type: ignore[union-attr]

    def _chosen(self, codes: Tensor) -> Iterator[Tensor]:
        """[B, K, T] -> the scaled codewords [B, T, D] of each of the first K codebooks; the latents are their sum."""
        for k, (codebook, code) in enumerate(zip(self.codebooks, codes.unbind(dim=1), strict=False)):
            chosen = codebook.lookup(code)
            yield chosen * self._gain(codes[:, 0])[..., None] if k and self.config.gain else chosen

    def _gain(self, first_codes: Tensor) -> Tensor:
        """Codes [...] of the first codebook -> [...], what the later codewords are multiplied by."""
        return self.gains[first_codes] if self.config.gain else self.codebooks[0].codewords.new_ones(first_codes.shape)

    @torch.no_grad()
    def fit(self, latents: Tensor, generator: torch.Generator, n_iterations: int = 10) -> None:
        """Start the codebooks by k-means, one after the other, on the residuals of `latents` [N, D].

        Every process must pass the same latents. With few vectors some codewords win none: those become a random
        vector, and `update` moves them later.
        """
        residual = latents.to(self.codebooks[0].codewords)
        for codebook in self.codebooks:
            size = len(codebook)
            everywhere = torch.arange(size, device=residual.device)
            codebook.set_codewords(everywhere, _draw(residual, size, generator), 1.0)
            for _ in range(n_iterations):
                hits, sums = tally(residual, codebook.search(residual), size)
                empty = (hits == 0).nonzero()[:, 0]
                codebook.codewords.copy_(sums / hits.clamp(min=1)[:, None])
                codebook.codewords[empty] = _draw(residual, len(empty), generator)
            codebook.set_codewords(everywhere, codebook.codewords.clone(), 1.0)
            codes = codebook.search(residual)
            residual = residual - codebook.lookup(codes)
            if self.config.gain and codebook is self.codebooks[0]:
                hits, powers = tally(residual.square().mean(dim=-1, keepdim=True), codes, size)
                # One more vector of the mean size each: some win few vectors, or none.
                self.left_over.copy_((powers[:, 0] + residual.square().mean()) / (hits + 1))
                self._set_gains()
                residual = residual / self._gain(codes)[:, None]

    def draw_orders(self, n_vectors: int, generator: torch.Generator, device: torch.device) -> list[Tensor]:
        """For `update`: a random order [ranks x N] of the `n_vectors` vectors of each rank, for each codebook."""
        size, on_card = n_vectors * _n_ranks(), device.type == "cuda"
        orders = [torch.randperm(size, generator=generator, pin_memory=on_card) for _ in self.codebooks]
        return [order.to(device, non_blocking=True) for order in orders]

    @torch.no_grad()
    def update(
        self,
        latents: Tensor,
        codes: Tensor,
        n_quantizers: Tensor | None,
        orders: Sequence[Tensor],
        skipped: Tensor | None = None,
    ) -> None:
        """Move every codebook towards the vectors it won in one step, and revive dead codewords.

        `latents` [B, D, T] and `codes` [B, K, T] as the forward pass had them, `n_quantizers` [B] likewise. Sums are
        taken over all processes, which get the same `orders` (see `draw_orders`), so the codebooks stay equal
        everywhere. Where `skipped` [] is true, nothing changes. No value is read on the host.
        """
        before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        learns = codes.new_ones((), dtype=torch.bool) if skipped is None else ~skipped.bool()
        learning: dict[Tensor, Tensor] = {}  # by buffer
        for codebook, won in zip(self.codebooks, self._won(latents, codes, n_quantizers, orders), strict=True):
            codebook.follow(won.hits, won.sums, self.config.ema_decay)
            if won.powers is not None:
                self.left_over.lerp_(won.powers, 1 - self.config.ema_decay)
            self._revive(codebook, won.drawn, won.drawn_codes)
            in_use = won.hits.sum() > 0  # dropout may leave a codebook out
            learning |= dict.fromkeys(codebook.buffers(), learns & in_use)
        if self.config.gain:
            self._set_gains()
        for name, buffer in self.named_buffers():
            buffer.copy_(torch.where(learning.get(buffer, learns), buffer, before[name]))

    def _won(self, latents: Tensor, codes: Tensor, n_quantizers: Tensor | None, orders: Sequence[Tensor]) -> list[Won]:
        """What each codebook won, on all ranks."""
        residual = latents.to(self.codebooks[0].codewords).mT  # [B, T, D]
        n_frames = residual.shape[1]
        n_everywhere = None if n_quantizers is None else gather_over_ranks(n_quantizers)  # [ranks x B]
        parts = []
        for k, codebook in enumerate(self.codebooks):
            vectors, chosen = residual.flatten(0, 1), codes[:, k].flatten()  # [N, D], [N]
            used, used_everywhere = (
                None if n is None else (n > k)[:, None].expand(-1, n_frames).flatten()
                for n in (n_quantizers, n_everywhere)
            )
            hits, sums = tally(vectors, chosen, len(codebook), used)
            parts += [hits, sums, *draw_over_ranks(vectors, chosen, len(codebook), used_everywhere, orders[k])]
            residual = residual - codebook.lookup(codes[:, k])
            if k == 0:
                powers = residual.square().mean(dim=-1, keepdim=True).flatten(0, 1)
                residual = residual / self._gain(codes[:, 0])[..., None]
        if self.config.gain:
            parts.append(tally(powers, codes[:, 0].flatten(), len(self.gains))[1][:, 0])
        parts = sum_over_ranks(parts)
        won = [Won(*parts[4 * k : 4 * k + 4]) for k in range(len(self.codebooks))]
        return [won[0]._replace(powers=parts[-1]), *won[1:]] if self.config.gain else won

    def _revive(self, codebook: Codebook, drawn: Tensor, drawn_codes: Tensor) -> None:
        """Replace dead codewords: each starts near the winner of one of the vectors `drawn` [V, D], with the sums of an
        average codeword. `drawn_codes` [V]: the winners. So the codewords with most hits are split first."""
        even_rate = codebook.cluster_size.mean()
        dead = codebook.cluster_size < self.config.revive_below * even_rate
        nth = (dead.cumsum(dim=0) - 1).clamp(min=0)  # the first dead codeword takes the first vector, and so on
        vectors, codes = drawn[nth], drawn_codes[nth].long()
        beside = codebook.lookup(codes).lerp(vectors, _REVIVAL_SHARE)
        codebook.codewords.copy_(torch.where(dead[:, None], beside, codebook.codewords))
        codebook.codeword_sum.copy_(torch.where(dead[:, None], beside * even_rate, codebook.codeword_sum))
        codebook.cluster_size.copy_(torch.where(dead, even_rate, codebook.cluster_size))
        if self.config.gain and codebook is self.codebooks[0]:
            self.left_over.copy_(torch.where(dead, even_rate * self.gains[codes].square(), self.left_over))

    def _set_gains(self) -> None:
        """From the running sums."""
        hits = self.codebooks[0].cluster_size.clamp(min=torch.finfo(self.left_over.dtype).tiny)
        self.gains.copy_((self.left_over / hits).sqrt().clamp(min=_MIN_GAIN))


def _mean_square(difference: Tensor, used: Tensor | None) -> Tensor:
    """Mean of the squares of [B, T, D], items whose `used` [B, 1, 1] is zero counting as zero.

    A mean over items: the mean of two half batches is that of the whole.
    """
    square = difference.square()
    return (square if used is None else square * used).mean()


def _draw(vectors: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` of the vectors [N, D] at random: distinct ones while they last."""
    order = torch.randperm(len(vectors), generator=generator)
    return vectors[order.repeat(-(-n // len(vectors)))[:n].to(vectors.device)]


class Won(NamedTuple):
    """What a codebook won in one step."""

    hits: Tensor  # [V] of each codeword
    sums: Tensor  # [V, D] of the vectors that chose it
    drawn: Tensor  # [V, D] some of these vectors at random, for dead codewords
    drawn_codes: Tensor  # [V] the codeword that each of them chose
    powers: Tensor | None = None  # [V] of the residuals of the first codebook, with `config.gain`


def tally(vectors: Tensor, codes: Tensor, size: int, used: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Hits [V] of each codeword and the sum [V, D] of the vectors [N, D] that chose it, those alone that are `used`
    [N]. By addition, since `bincount` and a mask as an index wait for the device."""
    weights = torch.ones_like(vectors[:, 0]) if used is None else used.to(vectors)
    hits = vectors.new_zeros(size).index_add_(0, codes, weights)
    vectors = vectors if used is None else vectors * weights[:, None]
    return hits, vectors.new_zeros(size, vectors.shape[-1]).index_add_(0, codes, vectors)


def draw_over_ranks(
    vectors: Tensor, codes: Tensor, n: int, used: Tensor | None, order: Tensor
) -> tuple[Tensor, Tensor]:
    """This rank's share of `n` vectors [n, D] that are drawn from those of all ranks, and their codes [n]: its own,
    and zeros in place of the others'. Distinct ones while they last, the first in `order` [ranks x N] of those that are
    `used` [ranks x N].

    `vectors` [N, D] and `codes` [N]: as many on each rank.
    """
    size, rank = len(vectors), _rank()
    place = torch.arange(n, device=vectors.device)
    if used is None:
        place = place % len(order)
    else:
        order = order[(~used[order]).to(torch.int8).argsort(stable=True)]  # those that may be drawn come first
        place = place % used.sum().clamp(min=1)
    drawn = order[place] - rank * size
    is_own, own = (drawn >= 0) & (drawn < size), drawn.clamp(0, size - 1)
    return vectors[own] * is_own[:, None], codes[own].to(vectors) * is_own


def _n_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _n_ranks() > 1 else 0


def sum_over_ranks(parts: list[Tensor]) -> list[Tensor]:
    if _n_ranks() == 1:
        return parts
    flat = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(flat)
    sums = torch.split(flat, [part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]


def gather_over_ranks(values: Tensor) -> Tensor:
    """[B] of each rank -> [ranks x B], in the order of ranks."""
    if _n_ranks() == 1:
        return values
    everyone = [torch.empty_like(values) for _ in range(_n_ranks())]
    dist.all_gather(everyone, values)
    return torch.cat(everyone)
