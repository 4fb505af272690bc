import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._partners import PartnerSampler, draw_partners
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


@pytest.fixture
def manager():
    adata = synthetic(n_obs=60, n_vars=30, n_types=3, seed=0)
    SCSiameseClu.setup_anndata(adata, n_neighbors=4)
    return SCSiameseClu(adata, n_clusters=3, n_latent=4, n_hidden=8).adata_manager


def test_partners_are_drawn_by_weight():
    torch.manual_seed(0)
    n = 4000
    index, neighbors = torch.zeros(n, 1, dtype=torch.long), torch.tensor([[5, 6, 7]]).expand(n, 3)
    drawn = draw_partners(index, neighbors, torch.tensor([[0.6, 0.3, 0.0]]).expand(n, 3))
    share = torch.bincount(drawn, minlength=8) / n
    assert share[7] == 0
    assert share[5].item() == pytest.approx(2 / 3, abs=0.03)


def test_a_cell_without_neighbours_is_its_own_partner():
    drawn = draw_partners(
        torch.tensor([[3], [4]]), torch.tensor([[3, 3], [8, 4]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    )
    assert drawn.tolist() == [3, 8]


def test_partners_carry_their_own_rows(manager):
    dataset = manager.create_torch_dataset()
    batch = {key: torch.as_tensor(value) for key, value in dataset[np.array([7, 3, 50])].items()}
    partners = PartnerSampler(manager, np.arange(60))(batch)
    rows = partners[SIAMESE_KEYS.CELL_INDEX].squeeze(1)
    assert all(row in batch[SIAMESE_KEYS.NEIGHBOR_INDEX][i] for i, row in enumerate(rows))
    counts = torch.as_tensor(manager.adata.X.toarray())
    assert torch.equal(partners[REGISTRY_KEYS.X_KEY], counts[rows])
    rep = torch.as_tensor(manager.blocks.tables[SIAMESE_KEYS.GRAPH_REP])
    index = torch.as_tensor(manager.blocks.tables[SIAMESE_KEYS.NEIGHBOR_INDEX])
    assert torch.equal(partners[SIAMESE_KEYS.NEIGHBOR_REP], rep[index[rows]])
    assert SIAMESE_KEYS.DIFFUSED_REP not in partners


def test_cells_held_out_are_never_partners(manager):
    dataset = manager.create_torch_dataset()
    batch = {key: torch.as_tensor(value) for key, value in dataset[np.arange(40)].items()}
    sampler = PartnerSampler(manager, np.arange(40))
    for _ in range(20):
        assert sampler(batch)[SIAMESE_KEYS.CELL_INDEX].max() < 40
