"""Residual vector quantization with codebooks that follow a moving average of the vectors they win.

The forward pass changes nothing: it compiles whole, and a skipped step leaves no trace. What changes the codebooks,
`fit` at the start and `update` after a step, is called by the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from codecctl.config.schema import QuantizerConfig
from codecctl.model.tally import Won, draw_over_ranks, gather_over_ranks, sum_over_ranks, tally

_ASIDE = 0.3  # of the way from a codeword to a vector that it won; at the vector itself hardly another one is won
_LEAST_GAIN = 1e-3  # of the latents' unit: where book 1 says silence, what it leaves is nothing
_FRAMES_AT_ONCE = 64  # of a search over many paths: what it compares stays in the cache
_BLOCK = 16  # distances, of which the search looks at the smallest first


@dataclass(frozen=True)
class Quantized:
    latents: Tensor  # [B, D, T] sum of the chosen codewords, straight-through
    codes: Tensor  # [B, K, T] int64
    commitment_loss: Tensor  # [K] mean squared distance of what each book was given to what it chose


class VectorQuantizer(nn.Module):
    """One book: a table of codewords and its running sums (van den Oord et al. 2017, appendix A.1).

    All three are buffers; `codebook` is `codeword_sum / cluster_size`, kept so that inference needs no division.
    """

    codebook: Tensor  # [V, D]
    codeword_sum: Tensor  # [V, D]
    cluster_size: Tensor  # [V] average hits an update

    def __init__(self, width: int, codebook_size: int) -> None:
        super().__init__()
        codebook = torch.randn(codebook_size, width)
        self.register_buffer("codebook", codebook)
        self.register_buffer("codeword_sum", codebook.clone())
        self.register_buffer("cluster_size", torch.ones(codebook_size))
        self._kept: tuple[Tensor, int, Tensor] | None = None  # codebook, its version, its table

    def table(self) -> Tensor:
        """[D + 2, V], by which -2 x, 1 and the squared length of x, side by side, give a vector's squared distances.
        Kept until the codebook changes: for a stream's single frames making it would cost as much as using it."""
        if torch.compiler.is_compiling() or self.codebook.is_inference():  # no version then
            return self._make_table()
        if self._kept is None or self._kept[0] is not self.codebook or self._kept[1] != self.codebook._version:
            self._kept = self.codebook, self.codebook._version, self._make_table()
        return self._kept[2]

    def _make_table(self) -> Tensor:
        lengths = self.codebook.square().sum(dim=-1)
        return torch.cat([self.codebook.mT, lengths[None], torch.ones_like(lengths)[None]])

    def search(self, x: Tensor) -> Tensor:
        """[..., D] -> [...], the nearest codeword of each vector; the lower index in a tie."""
        return self.distances(x).argmin(dim=-1)

    def distances(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V], squared, less that of x to the origin."""
        table = self.table()
        flat = torch.addmm(table[-2], x.flatten(0, -2), table[:-2], alpha=-2)
        return flat.view(*x.shape[:-1], len(self.codebook))

    def lookup(self, codes: Tensor) -> Tensor:
        """[...] -> [..., D]"""
        return nn.functional.embedding(codes, self.codebook)

    def set_codewords(self, where: Tensor, codewords: Tensor, cluster_size: Tensor | float) -> None:
        """Replace the codewords at the indices `where`; running sums as if each had had `cluster_size` hits."""
        self.codebook[where] = codewords
        self.cluster_size[where] = cluster_size
        self.codeword_sum[where] = codewords * self.cluster_size[where, None]

    def follow(self, hits: Tensor, sums: Tensor, decay: float) -> None:
        """Move the averages towards one update's hits [V] and sums of won vectors [V, D]."""
        self.cluster_size.lerp_(hits, 1 - decay)
        self.codeword_sum.lerp_(sums, 1 - decay)
        alive = self.cluster_size > torch.finfo(self.cluster_size.dtype).eps
        self.codebook.copy_(torch.where(alive[:, None], self.codeword_sum / self.cluster_size[:, None], self.codebook))


class ResidualVectorQuantizer(nn.Module):
    """A stack of books, each coding what the ones before left over (Zeghidour et al. 2021, algorithm 1).

    With `config.gain` each codeword of book 1 brings a gain, the root mean square of what it leaves over, by which the
    codewords of the later books are multiplied: soft frames are coded as finely, for their level, as loud ones (the
    gain-shape idea of Gersho and Gray 1992, chapter 12, at no bits).
    """

    books: Sequence[VectorQuantizer]
    gains: Tensor  # [V] of book 1's codewords; with `config.gain` only
    left_over: Tensor  # [V] and the running sums of those squares, beside `cluster_size`

    def __init__(self, config: QuantizerConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.gain:
            self.register_buffer("gains", torch.ones(config.codebook_sizes[0]))
            self.register_buffer("left_over", torch.ones(config.codebook_sizes[0]))
        self.books = nn.ModuleList(VectorQuantizer(width, size) for size in config.codebook_sizes)  # type: ignore[assignment]

    def forward(self, latents: Tensor, n_quantizers: Tensor | None = None) -> Quantized:
        """[B, D, T] -> `Quantized`, in float32 or wider. `n_quantizers` [B]: the books each item uses; None: all."""
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
        """[B, D, T] -> [B, K, T], K = `n_quantizers` or all books."""
        if self.config.n_paths > 1:
            frames = latents.mT.flatten(0, 1)
            codes = torch.cat(
                [self._search_paths(piece, n_quantizers) for piece in torch.split(frames, _FRAMES_AT_ONCE)]
            )
            return rearrange(codes, "(b t) k -> b k t", b=len(latents))
        return self._search_greedily(latents, n_quantizers)

    def _search_greedily(self, latents: Tensor, n_quantizers: int | None) -> Tensor:
        """[B, D, T] -> [B, K, T]: each book's nearest codeword, once and for all."""
        residual, codes = latents.mT, []
        for k, book in enumerate(self.books[:n_quantizers]):
            codes.append(book.search(residual))
            residual = residual - book.lookup(codes[-1])
            if k == 0:
                residual = residual / self._gain(codes[0])[..., None]
        return torch.stack(codes, dim=1)

    def _search_paths(self, target: Tensor, n_quantizers: int | None) -> Tensor:
        """[N, D] -> [N, K]: after each book the `n_paths` best choices of codewords so far go on, and the best one wins
        at the end (the M-algorithm, Jelinek and Anderson 1971). What a decoder does with the codes is the same."""
        residual = target[:, None]  # [N, paths, D], in units of the path's gain
        gain = residual.new_ones(len(target), 1, 1)
        errors = target.square().sum(dim=-1, keepdim=True)  # [N, paths], squared, of what was chosen so far
        codes = torch.zeros(len(target), 1, 0, dtype=torch.int64, device=target.device)
        books = self.books[:n_quantizers]
        for k, book in enumerate(books):
            # gain^2 |residual - codeword|^2, all by one product, without a name: the next takes its place in the cache.
            rows = torch.cat([-2 * gain.square() * residual, gain.square(), errors[..., None]], dim=-1)
            n_kept = self.config.n_paths if k + 1 < len(books) else 1
            errors, best = _smallest((rows.flatten(0, 1) @ book.table()).view(*rows.shape[:2], -1), n_kept)
            path, code = best // len(book.codebook), best % len(book.codebook)
            codes = torch.cat([_rows(codes, path), code[..., None]], dim=-1)
            residual = _rows(residual, path) - book.lookup(code)
            gain = _rows(gain, path)
            if k == 0:
                gain = self._gain(code)[..., None]
                residual = residual / gain
        return codes[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """[B, K, T] -> [B, D, T], with the first K books."""
        return sum(self._chosen(codes)).mT  # type: ignore[union-attr]

    def _chosen(self, codes: Tensor) -> Iterator[Tensor]:
        """[B, K, T] -> [B, T, D] of each of the first K books, whose sum is what the codes stand for."""
        for k, (book, code) in enumerate(zip(self.books, codes.unbind(dim=1), strict=False)):
            chosen = book.lookup(code)
            yield chosen * self._gain(codes[:, 0])[..., None] if k and self.config.gain else chosen

    def _gain(self, first_codes: Tensor) -> Tensor:
        """[...], the choices of book 1 -> [...], what the later books' codewords are multiplied by."""
        return self.gains[first_codes] if self.config.gain else self.books[0].codebook.new_ones(first_codes.shape)

    @torch.no_grad()
    def fit(self, latents: Tensor, generator: torch.Generator, n_iterations: int = 10) -> None:
        """Start the books by k-means, one after the other, on what is left of `latents` [N, D] from the books before.

        Every process must bring the same latents. Few vectors leave some codewords without any: those get a random
        vector, and `update` moves them on.
        """
        residual = latents.to(self.books[0].codebook)
        for book in self.books:
            size = len(book.codebook)
            everywhere = torch.arange(size, device=residual.device)
            book.set_codewords(everywhere, _draw(residual, size, generator), 1.0)
            for _ in range(n_iterations):
                hits, sums = tally(residual, book.search(residual), size)
                empty = (hits == 0).nonzero()[:, 0]
                book.codebook.copy_(sums / hits.clamp(min=1)[:, None])
                book.codebook[empty] = _draw(residual, len(empty), generator)
            book.set_codewords(everywhere, book.codebook.clone(), 1.0)
            codes = book.search(residual)
            residual = residual - book.lookup(codes)
            if self.config.gain and book is self.books[0]:
                hits, powers = tally(residual.square().mean(dim=-1, keepdim=True), codes, size)
                # One more vector of the mean size each: few win, or none.
                self.left_over.copy_((powers[:, 0] + residual.square().mean()) / (hits + 1))
                self._set_gains()
                residual = residual / self._gain(codes)[:, None]

    @torch.no_grad()
    def update(
        self,
        latents: Tensor,
        codes: Tensor,
        n_quantizers: Tensor | None,
        generator: torch.Generator,
        skipped: Tensor | None = None,
    ) -> None:
        """Move every book towards the vectors it won in one step, and revive dead codewords.

        `latents` [B, D, T] and `codes` [B, K, T] as the forward pass had them, `n_quantizers` [B] likewise. Sums are
        taken over all processes, and what is drawn is drawn alike on all (the same `generator` state), so the books
        stay equal everywhere. Where `skipped` [] is true, nothing changes. No value is read on the host.
        """
        before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        learns = codes.new_ones((), dtype=torch.bool) if skipped is None else ~skipped.bool()
        learning: dict[Tensor, Tensor] = {}  # by buffer
        for book, won in zip(self.books, self._won(latents, codes, n_quantizers, generator), strict=True):
            book.follow(won.hits, won.sums, self.config.ema_decay)
            if won.powers is not None:
                self.left_over.lerp_(won.powers, 1 - self.config.ema_decay)
            self._revive(book, won.drawn, won.drawn_codes)
            learning |= dict.fromkeys(book.buffers(), learns & (won.hits.sum() > 0))  # dropout may leave a book out
        if self.config.gain:
            self._set_gains()
        for name, buffer in self.named_buffers():
            buffer.copy_(torch.where(learning.get(buffer, learns), buffer, before[name]))

    def _won(
        self, latents: Tensor, codes: Tensor, n_quantizers: Tensor | None, generator: torch.Generator
    ) -> list[Won]:
        """What each book won, on all ranks."""
        residual = rearrange(latents.to(self.books[0].codebook), "b d t -> b t d")
        n_frames = residual.shape[1]
        n_everywhere = None if n_quantizers is None else gather_over_ranks(n_quantizers)  # [ranks x B]
        parts = []
        for k, book in enumerate(self.books):
            vectors, chosen = residual.flatten(0, 1), codes[:, k].flatten()  # [N, D], [N]
            used, used_everywhere = (
                None if n is None else (n > k)[:, None].expand(-1, n_frames).flatten()
                for n in (n_quantizers, n_everywhere)
            )
            hits, sums = tally(vectors, chosen, len(book.codebook), used)
            parts += [hits, sums, *draw_over_ranks(vectors, chosen, len(book.codebook), used_everywhere, generator)]
            residual = residual - book.lookup(codes[:, k])
            if k == 0:
                powers = residual.square().mean(dim=-1, keepdim=True).flatten(0, 1)
                residual = residual / self._gain(codes[:, 0])[..., None]
        if self.config.gain:
            parts.append(tally(powers, codes[:, 0].flatten(), len(self.gains))[1][:, 0])
        parts = sum_over_ranks(parts)
        won = [Won(*parts[4 * k : 4 * k + 4]) for k in range(len(self.books))]
        return [won[0]._replace(powers=parts[-1]), *won[1:]] if self.config.gain else won

    def _revive(self, book: VectorQuantizer, drawn: Tensor, drawn_codes: Tensor) -> None:
        """Put codewords that hardly win any more beside one that does, a step towards one of the vectors `drawn`
        [V, D] that it won, with the sums of an average codeword. `drawn_codes` [V]: who won them. So who wins most is
        split first."""
        even_rate = book.cluster_size.mean()
        dead = book.cluster_size < self.config.revive_below * even_rate
        nth = (dead.cumsum(dim=0) - 1).clamp(min=0)  # the first dead codeword takes the first vector, and so on
        vectors, codes = drawn[nth], drawn_codes[nth].long()
        beside = book.lookup(codes).lerp(vectors, _ASIDE)
        book.codebook.copy_(torch.where(dead[:, None], beside, book.codebook))
        book.codeword_sum.copy_(torch.where(dead[:, None], beside * even_rate, book.codeword_sum))
        book.cluster_size.copy_(torch.where(dead, even_rate, book.cluster_size))
        if self.config.gain and book is self.books[0]:
            self.left_over.copy_(torch.where(dead, even_rate * self.gains[codes].square(), self.left_over))

    def _set_gains(self) -> None:
        """From the running sums."""
        hits = self.books[0].cluster_size.clamp(min=torch.finfo(self.left_over.dtype).tiny)
        self.gains.copy_((self.left_over / hits).sqrt().clamp(min=_LEAST_GAIN))


def _mean_square(difference: Tensor, used: Tensor | None) -> Tensor:
    """Mean of the squares of [B, T, D], items whose `used` [B, 1, 1] is zero counting as zero.

    A mean over items: the mean of two half batches is that of the whole.
    """
    square = difference.square()
    return (square if used is None else square * used).mean()


def _smallest(errors: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """[N, P, V] -> [N, min(n, P x V)], the smallest of each row of P x V in rising order, and where in it they are.

    They lie in the `n` blocks whose minima are smallest: sorting those alone takes a third of the time of all.
    """
    n_paths, size = errors.shape[1:]
    if size % _BLOCK or n_paths * size // _BLOCK <= n:
        smallest, where = errors.flatten(1).topk(min(n, n_paths * size), largest=False)
        return smallest, where
    step = size // _BLOCK  # between the members of a block: so its minimum takes no look at neighbours
    chosen = errors.view(-1, n_paths, _BLOCK, step).amin(dim=2).flatten(1).topk(n, largest=False, sorted=False).indices
    first = chosen // step * size + chosen % step
    members = (first[..., None] + torch.arange(0, size, step, device=first.device)).flatten(1)  # [N, n x _BLOCK]
    smallest, where = errors.flatten(1).gather(1, members).topk(n, largest=False)
    return smallest, members.gather(1, where)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """[N, M, D] and [N, M'] -> [N, M', D], each item's rows."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def _draw(vectors: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` of the vectors [N, D] at random: distinct ones while they last."""
    order = torch.randperm(len(vectors), generator=generator)
    return vectors[order.repeat(-(-n // len(vectors)))[:n].to(vectors.device)]
