import numpy as np
import pytest

from scsiameseclu.metrics import effective_rank, mean_pairwise_cosine


def test_effective_rank_is_that_of_the_singular_values():
    latent = np.random.default_rng(0).normal(size=(200, 6)) * [5, 3, 2, 1, 0.5, 0.1] + 7
    singular = np.linalg.svd(latent - latent.mean(0), compute_uv=False)
    p = singular / singular.sum()
    assert effective_rank(latent) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert effective_rank(latent, center=False) != pytest.approx(effective_rank(latent))


def test_effective_rank_between_collapsed_and_full():
    line = np.outer(np.arange(50), [1.0, 2.0, 3.0, 4.0])
    assert effective_rank(line) == pytest.approx(1.0)
    assert effective_rank(np.vstack([np.eye(5), -np.eye(5)])) == pytest.approx(5.0)
    assert effective_rank(np.full((10, 3), 2.0)) == 0.0
    assert effective_rank(np.float32(np.random.default_rng(0).normal(size=(3, 40)))) <= 2.0 + 1e-9


def test_cosine_equals_the_mean_over_pairs():
    rng = np.random.default_rng(1)
    latent, labels = rng.normal(size=(40, 5)) + 1, rng.integers(3, size=40)
    latent[3] = 0
    units = latent / np.where(np.linalg.norm(latent, axis=1) > 0, np.linalg.norm(latent, axis=1), 1)[:, None]
    similarity, same = units @ units.T, labels[:, None] == labels
    other = ~np.eye(40, dtype=bool)
    found = mean_pairwise_cosine(latent, labels.astype(str))
    assert found["all"] == pytest.approx(similarity[other].mean())
    assert found["within"] == pytest.approx(similarity[same & other].mean())
    assert found["between"] == pytest.approx(similarity[~same].mean())


def test_cosine_without_pairs_of_a_kind_is_nan():
    latent = [[1.0, 0.0], [0.0, 2.0]]
    assert mean_pairwise_cosine(latent)["all"] == 0.0
    assert np.isnan(mean_pairwise_cosine(latent)["between"])
    assert np.isnan(mean_pairwise_cosine(latent, ["a", "b"])["within"])


def test_bad_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n, d\), found \(3,\)"):
        effective_rank([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="finite embedding"):
        mean_pairwise_cosine([[1.0, np.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match="at least two cells, found 1"):
        mean_pairwise_cosine([[1.0, 0.0]])
    with pytest.raises(ValueError, match="found 1 labels and 2 cells"):
        mean_pairwise_cosine(np.eye(2), ["a"])
