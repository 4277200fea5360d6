"""One codebook, and the running sums that training keeps beside its codewords."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_N_CANDIDATES = 32  # of a search by rough distances
_FEW = 16  # vectors, for which reading the codewords takes longer than computing the distances
_RUNNING_SUMS = ("codeword_sum", "cluster_size", "left_over")


class Codebook(nn.Module):
    """A table of codewords and its running sums (van den Oord et al. 2017, appendix A.1).

    All three are buffers; `codewords` is `codeword_sum / cluster_size`, stored so that inference needs no division.
    """

    codewords: Tensor  # [V, D]
    codeword_sum: Tensor  # [V, D]
    cluster_size: Tensor  # [V] average hits an update

    def __init__(self, width: int, codebook_size: int) -> None:
        super().__init__()
        with torch.inference_mode(False):  # or the tensor would have no version, by which the table is cached
            codewords = torch.randn(codebook_size, width)
        self.register_buffer("codewords", codewords)
        self.register_buffer("codeword_sum", codewords.clone())
        self.register_buffer("cluster_size", torch.ones(codebook_size))
        self.product: nn.Module | None = None  # of `codewords` times -2, in another arithmetic
        self._cached: tuple[Tensor, int, Tensor] | None = None  # codewords, their version, their table

    def __len__(self) -> int:
        return len(self.codewords)

    def table(self) -> Tensor:
        """[D + 2, V], so that [-2 x, 1, |x|^2] @ table is the squared distance of x to every codeword.

        Cached until the codewords change: for a stream's single frames making it costs as much as using it.
        """
        if torch.compiler.is_compiling() or self.codewords.is_inference():  # no version then
            return self._make_table()
        if self._cached is None or self._cached[0] is not self.codewords or self._cached[1] != self.codewords._version:
            with torch.inference_mode(False):  # or it could not be used where gradients are recorded
                self._cached = self.codewords, self.codewords._version, self._make_table()
        return self._cached[2]

    def _make_table(self) -> Tensor:
        lengths = self.codewords.square().sum(dim=-1)
        return torch.cat([self.codewords.mT, lengths[None], torch.ones_like(lengths)[None]])

    def search(self, x: Tensor) -> Tensor:
        """[..., D] -> [...], the nearest codeword of each vector; the lower index in a tie."""
        if self.product is None or x.shape[:-1].numel() > _FEW:
            return self.distances(x).argmin(dim=-1)
        x, shape, lengths = x.flatten(0, -2), x.shape[:-1], self.table()[-2]
        rough = self.product(x, lengths)
        near = rough.topk(min(_N_CANDIDATES, len(self)), largest=False, sorted=False).indices.sort().values
        exact = torch.baddbmm(lengths[near][..., None], self.lookup(near), x[..., None], alpha=-2)[..., 0]
        return near.gather(-1, exact.argmin(dim=-1, keepdim=True)).view(shape)

    def distances(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V], squared, less the squared length of x."""
        table = self.table()
        flat = torch.addmm(table[-2], x.flatten(0, -2), table[:-2], alpha=-2)
        return flat.view(*x.shape[:-1], len(self))

    def lookup(self, codes: Tensor) -> Tensor:
        """[...] -> [..., D]"""
        return nn.functional.embedding(codes, self.codewords)

    def set_codewords(self, where: Tensor, codewords: Tensor, cluster_size: Tensor | float) -> None:
        """Replace the codewords at the indices `where`; running sums as if each had had `cluster_size` hits."""
        self.codewords[where] = codewords
        self.cluster_size[where] = cluster_size
        self.codeword_sum[where] = codewords * self.cluster_size[where, None]

    def follow(self, hits: Tensor, sums: Tensor, decay: float) -> None:
        """Move the averages towards one update's hits [V] and sums of won vectors [V, D]."""
        self.cluster_size.lerp_(hits, 1 - decay)
        self.codeword_sum.lerp_(sums, 1 - decay)
        alive = self.cluster_size > torch.finfo(self.cluster_size.dtype).eps
        means = self.codeword_sum / self.cluster_size[:, None]
        self.codewords.copy_(torch.where(alive[:, None], means, self.codewords))


def without_running_sums(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A codec's weights less the running sums, which only training uses."""
    return {name: weight for name, weight in weights.items() if not name.endswith(_RUNNING_SUMS)}


def with_running_sums(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: sums as if each codeword had had one hit."""
    complete = dict(weights)
    for name, weight in weights.items():
        part, _, last = name.rpartition(".")
        if last == "codewords":
            complete[f"{part}.codeword_sum"] = weight.clone()
            complete[f"{part}.cluster_size"] = weight.new_ones(weight.shape[:1])
        elif last == "gains":
            complete[f"{part}.left_over"] = weight.square()
    return complete
