from scsiameseclu import presets, tl
from scsiameseclu.data.datasets import synthetic
from scsiameseclu.module import SiameseModule


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


def test_a_preset_is_new_on_each_call():
    presets.paper()["model_kwargs"]["n_latent"] = 1
    assert presets.paper()["model_kwargs"]["n_latent"] == 20
