import numpy as np
import pytest
import torch

from codecctl.evaluate.codebooks import CodebookCounter, codebook_stats


def test_even_use_of_a_quarter_of_a_codebook() -> None:
    stats = codebook_stats(np.array([5, 5, 5, 5, *[0] * 12]))
    assert stats.codebook_usage == 0.25
    assert stats.dead_codewords == 12
    assert stats.perplexity == pytest.approx(4.0)
    assert stats.entropy_bits == pytest.approx(2.0)


def test_entropy_of_uneven_use() -> None:
    assert codebook_stats(np.array([2, 1, 1])).entropy_bits == pytest.approx(1.5)


def test_statistics_without_codes() -> None:
    stats = codebook_stats(np.zeros(8, np.int64))
    assert (stats.n_codes, stats.codebook_usage, stats.perplexity, stats.dead_codewords) == (0, 0.0, 1.0, 8)


def test_batches_add_up_and_fewer_codebooks_count_for_those_only() -> None:
    counter = CodebookCounter([4, 2])
    counter.update(torch.tensor([[[0, 1, 2, 3], [1, 1, 1, 1]]]))
    counter.update(torch.tensor([[[0, 0]], [[0, 0]]]))
    first, second = counter.stats()
    assert (first.n_codes, second.n_codes) == (8, 4)
    assert counter.counts[0].tolist() == [5, 1, 1, 1]
    counter.reset()
    assert counter.stats()[0].n_codes == 0


def test_coding_bits_of_few_codes_are_not_underestimated() -> None:
    codes = torch.randint(0, 1024, (1, 1, 3000), generator=torch.Generator().manual_seed(0))
    counter = CodebookCounter([1024])
    counter.update(codes)
    (stats,) = counter.stats()
    assert stats.entropy_bits < 9.8  # of the observed frequencies
    assert stats.coding_bits == pytest.approx(10.0, abs=0.06)


def test_mutual_information_is_the_entropy_for_a_copy_and_0_for_independent_codes() -> None:
    draw = torch.Generator().manual_seed(0)
    first, other = (torch.randint(0, 64, (1, 20_000), generator=draw) for _ in range(2))
    half = first // 2 * 2 + torch.randint(0, 2, (1, 20_000), generator=draw)  # shares all but one bit
    counter = CodebookCounter([64, 64, 64, 64], pairs=True)
    counter.update(torch.stack([first, first, half, other], dim=1))
    shared = [stats.mutual_information_bits for stats in counter.stats()]
    assert shared[0] is None
    assert shared[1:] == [
        pytest.approx(bits, abs=0.04) for bits in (6, 5, 0)
    ]  # uncorrected, independent codes show 0.14


def test_mutual_information_of_too_few_codes_is_unknown() -> None:
    draw = torch.Generator().manual_seed(0)
    counter = CodebookCounter([1024, 1024], pairs=True)
    counter.update(torch.randint(0, 1024, (1, 2, 3000), generator=draw))
    assert counter.stats()[1].mutual_information_bits is None
