"""A GPU gives the same results as the CPU, up to rounding. Skipped without a GPU."""

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch

from scsiameseclu import SCSiameseClu, losses
from scsiameseclu.data._device import fits_on
from scsiameseclu.datasets import synthetic
from scsiameseclu.pp import _knn
from scsiameseclu.train import ResumeCheckpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(accelerator="gpu", **options):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=600, n_vars=100, n_types=3, proportions=[3, 2, 1], seed=0)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=3)
    options.setdefault("max_epochs", 8)
    model.train(accelerator=accelerator, enable_progress_bar=False, **options)
    return model


def test_likelihood_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(3 * torch.rand(50, 30, generator=generator))
    rate, dispersion = torch.randn(50, 30, generator=generator), torch.randn(30, generator=generator)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        inputs = [value.to(device, dtype).requires_grad_() for value in (rate, dispersion)]
        nll = losses.negative_binomial_nll(x.to(device, dtype), *inputs)
        results.append([nll, *torch.autograd.grad(nll.sum(), inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-5)


def test_neighbours(monkeypatch):
    points = np.random.default_rng(0).normal(size=(3000, 20)).astype(np.float32)
    expected = _knn.knn(points, 10)
    monkeypatch.setattr(_knn, "EXACT_LIMIT", 10)
    found = _knn.knn(points, 10)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.weights, expected.weights)
    monkeypatch.setattr(_knn, "GPU_EXACT_LIMIT", 10)
    found = _knn.knn(points, 10)
    shared = [len({*one} & {*other}) for one, other in zip(found.indices, expected.indices, strict=True)]
    assert np.mean(shared) > 9.0


def test_training_embedding_and_storage(tmp_path):
    model = trained()
    assert model.module.device.type == "cuda"
    assert fits_on(model.module.device, model.adata_manager)
    latent = model.get_latent_representation()
    from_host = trained(datasplitter_kwargs={"on_device": False})
    np.testing.assert_allclose(from_host.get_latent_representation(), latent, atol=1e-2)
    model.save(tmp_path / "model")
    on_cpu = SCSiameseClu.load(tmp_path / "model", adata=model.adata, accelerator="cpu")
    np.testing.assert_allclose(on_cpu.get_latent_representation(), latent, atol=1e-4)
    query = SCSiameseClu.load_query_data(synthetic(n_obs=50, n_vars=100, n_types=3, seed=1), model)
    assert query.module.device.type == "cuda"
    assert len(query.predict()) == 50


def test_bfloat16_gives_the_same_clusters():
    first, second = trained(), trained(precision="bf16-mixed")
    assert (first.predict().to_numpy() == second.predict().to_numpy()).mean() > 0.98


def test_resuming_in_the_clustering_phase(tmp_path):
    class Killed(Exception):
        pass

    class Kill(pl.Callback):
        def on_train_epoch_start(self, trainer, *_):
            if trainer.current_epoch == 7:
                raise Killed

    whole, path = trained(), str(tmp_path / "run.ckpt")
    with pytest.raises(Killed):
        trained(callbacks=[ResumeCheckpoint(path), Kill()])
    resumed = trained(ckpt_path=path)
    np.testing.assert_allclose(resumed.get_latent_representation(), whole.get_latent_representation(), atol=1e-2)
