import numpy as np
import pytest
from benchmarks import ablations
from benchmarks.table import as_frame

import scsiameseclu as ssc


def rows(method, ari, seed=0, sets=("a", "b", "c")):
    return [{"set": name, "method": method, "seed": seed, "ari": value} for name, value in zip(sets, ari, strict=True)]


def test_differences_are_of_the_same_set_and_seed():
    frame = as_frame(
        rows("siamese_k", [0.5, 0.6, 0.7])
        + rows("siamese_k", [0.9, 0.6, 0.7], seed=1)
        + rows("siamese_k:zinb", [0.4, 0.6, 0.9])
        + rows("siamese_k:zinb", [0.6], seed=1, sets=["a"])
        + rows("siamese_k:zinb", [0.0], seed=2, sets=["a"])  # no default to compare with
    )
    found = ablations.paired(frame, "zinb", "ari")
    assert found.to_dict() == pytest.approx({"a": -0.2, "b": 0.0, "c": 0.2})


def test_report_names_what_was_run_only():
    frame = as_frame(rows("siamese_k", [0.5, 0.6, 0.7]) + rows("siamese_k:zinb", [0.4, 0.5, 0.6]))
    lines = ablations.report(frame).splitlines()
    assert len(lines) == 3
    assert "ZINB" in lines[2] and "-0.100 to -0.100" in lines[2] and "| 3 / 0 |" in lines[2]


def test_interval_of_the_mean_over_sets():
    low, high = ablations.interval(np.array([-0.1, 0.0, 0.1, 0.2]))
    assert -0.1 <= low < 0.05 < high <= 0.2


@pytest.mark.parametrize("tag", list(ablations.VARIANTS))
def test_every_variant_is_a_setting_the_model_knows(tag):
    adata = ssc.datasets.synthetic(n_obs=120, n_vars=80, n_types=3)
    settings = ablations.VARIANTS[tag][1]
    train = {"max_epochs": 2, "enable_progress_bar": False, **settings.get("train_kwargs", {})}
    ssc.tl.cluster(adata, 3, **{**settings, "train_kwargs": train})
    assert adata.obs["siamese_clu"].nunique() <= 3
