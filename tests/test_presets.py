import torch

from scsiameseclu import presets, tl
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.module import SiameseModule
from scsiameseclu.pp import _neighbors
from scsiameseclu.pp._stored_graph import DIFFUSED_KEYS


def test_paper_runs_with_the_terms_of_the_paper():
    adata = synthetic(n_obs=120, n_vars=60, n_types=3, seed=0)
    options = presets.paper()
    options["train_kwargs"].update(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    options["train_kwargs"]["plan_kwargs"]["n_pretrain_epochs"] = 2
    model = tl.cluster(adata, n_clusters=3, **options)
    terms = {name.removesuffix("_train") for name in model.history if name.endswith("_train")}
    assert {"reconstruction", "cell_correlation", "latent_correlation", "propagation", "clustering"} <= terms
    assert "cross_correlation" not in terms
    assert model.module.head.kernel == "student_t"
    assert adata.obs["siamese_clu"].nunique() <= 3


def test_paper_views_are_of_the_same_cell(monkeypatch):
    seen = []
    original = SiameseModule._get_inference_input
    monkeypatch.setattr(
        SiameseModule,
        "_get_inference_input",
        lambda m, t, **k: seen.append("siamese_partner" in t) or original(m, t, **k),
    )
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)
    for options, expected in (({}, True), (presets.paper(), False)):
        seen.clear()
        plan = options.get("train_kwargs", {}).get("plan_kwargs", {})
        train = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": plan}
        tl.cluster(adata.copy(), n_clusters=2, train_kwargs=train)
        assert any(seen) == expected


def second_blocks(monkeypatch, adata, options):
    """Train for one clustering epoch; return the mini-batches and the neighbours that each second view reads."""
    seen = []
    original = SiameseModule._get_inference_input

    def watched(module, tensors, **kwargs):
        inputs = original(module, tensors, **kwargs)
        if module.training:
            seen.append((tensors, inputs["second"]["neighbor_rep"]))
        return inputs

    monkeypatch.setattr(SiameseModule, "_get_inference_input", watched)
    plan = options.get("train_kwargs", {}).get("plan_kwargs", {})
    train = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": plan}
    model = tl.cluster(adata, n_clusters=2, **{**options, "train_kwargs": train})
    assert seen
    return model, seen


def test_the_default_never_diffuses_and_reads_the_neighbours_of_the_partner(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("diffused without being asked")

    monkeypatch.setattr(_neighbors, "ppr_diffusion", refuse)
    model, seen = second_blocks(monkeypatch, synthetic(n_obs=60, n_vars=30, n_types=2, seed=0), {})
    tables = model.adata_manager.blocks.tables
    assert SIAMESE_KEYS.DIFFUSED_INDEX not in tables and not set(DIFFUSED_KEYS) & set(model.adata.obsm)
    rep, index = torch.as_tensor(tables[SIAMESE_KEYS.GRAPH_REP]), torch.as_tensor(tables[SIAMESE_KEYS.NEIGHBOR_INDEX])
    for tensors, second in seen:
        rows = tensors[SIAMESE_KEYS.PARTNER][SIAMESE_KEYS.CELL_INDEX].squeeze(1)
        assert not torch.equal(rows, tensors[SIAMESE_KEYS.CELL_INDEX].squeeze(1))
        assert torch.equal(second, rep[index[rows]])


def test_the_paper_diffuses_and_reads_the_diffused_block(monkeypatch):
    calls = []
    original = _neighbors.ppr_diffusion
    monkeypatch.setattr(_neighbors, "ppr_diffusion", lambda *a, **k: calls.append(a) or original(*a, **k))
    model, seen = second_blocks(monkeypatch, synthetic(n_obs=60, n_vars=30, n_types=2, seed=0), presets.paper())
    assert len(calls) == 1
    assert set(DIFFUSED_KEYS) < set(model.adata.obsm)
    rep = torch.as_tensor(model.adata_manager.blocks.tables[SIAMESE_KEYS.GRAPH_REP])
    index = torch.as_tensor(model.adata_manager.blocks.tables[SIAMESE_KEYS.DIFFUSED_INDEX])
    for tensors, second in seen:
        assert torch.equal(second, rep[index[tensors[SIAMESE_KEYS.CELL_INDEX].squeeze(1)]])
        assert not torch.equal(second, tensors[SIAMESE_KEYS.NEIGHBOR_REP])


def test_a_preset_is_new_on_each_call():
    presets.paper()["model_kwargs"]["n_latent"] = 1
    assert presets.paper()["model_kwargs"]["n_latent"] == 20
