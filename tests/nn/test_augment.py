import pytest
import torch

from scsiameseclu.nn import ExpressionAugmentation, perturb_edges


def test_swapped_entries_come_from_another_cell_and_the_same_gene():
    x = torch.arange(40.0).reshape(8, 5)
    corrupted, swapped = ExpressionAugmentation(swap_rate=0.5, noise_sd=0.0)(x)
    assert torch.equal(corrupted[~swapped], x[~swapped])
    assert swapped.any()
    assert (corrupted[swapped] != x[swapped]).all()
    # Column g holds only g, g + 5, ..., so a swapped value still belongs to the same gene.
    assert torch.equal(corrupted % 5, x % 5)


def test_each_cell_has_one_donor():
    x = torch.arange(6.0)[:, None].expand(6, 50)
    corrupted, swapped = ExpressionAugmentation(swap_rate=0.7, noise_sd=0.0)(x)
    for cell in range(6):
        assert len(corrupted[cell][swapped[cell]].unique()) == 1


def test_rates_are_respected():
    x = torch.ones(200, 200)
    corrupted, swapped = ExpressionAugmentation(swap_rate=0.4, noise_sd=0.1)(x)
    assert swapped.float().mean() == pytest.approx(0.4, abs=0.02)
    assert corrupted.std() == pytest.approx(0.1, abs=0.01)
    assert corrupted.mean() == pytest.approx(1.0, abs=0.01)


def test_nothing_happens_at_rate_zero_and_a_single_cell_is_not_swapped():
    x = torch.randn(4, 3)
    assert torch.equal(ExpressionAugmentation(0.0, 0.0)(x)[0], x)
    corrupted, swapped = ExpressionAugmentation(1.0, 0.0)(x[:1])
    assert torch.equal(corrupted, x[:1])
    assert not swapped.any()


def test_generator_makes_augmentation_reproducible():
    x, augment = torch.randn(10, 10), ExpressionAugmentation()
    first, second = (augment(x, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("arguments", "message"), [((1.5, 0.1), "swap_rate"), ((0.1, -1.0), "noise_sd")])
def test_rates_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExpressionAugmentation(*arguments)


def test_edges_are_dropped_at_the_rate_and_the_rest_untouched():
    weights = torch.rand(500, 15) + 0.1
    dropped = perturb_edges(weights, 0.3)
    kept = dropped > 0
    assert torch.equal(dropped[kept], weights[kept])
    assert (~kept).float().mean() == pytest.approx(0.3, abs=0.03)


def test_a_cell_keeps_its_strongest_edge_and_padding_stays_padding():
    weights = torch.tensor([[0.2, 0.9, 0.0], [0.0, 0.0, 0.0]])
    dropped = perturb_edges(weights, 1.0)
    assert dropped.tolist() == [[0.0, pytest.approx(0.9), 0.0], [0.0, 0.0, 0.0]]


def test_edge_rate_is_checked():
    with pytest.raises(ValueError, match="rate within"):
        perturb_edges(torch.ones(2, 2), -0.1)
