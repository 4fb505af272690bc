import numpy as np
from benchmarks import one_population


def test_a_kept_population_is_judged_without_training(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 8)).astype(np.float32)
    np.savez_compressed(tmp_path / "simulated_0.npz", embedding=points, expression=points)
    cells = one_population.simulate(0)
    assert cells.shape == (300, one_population.N_GENES)
    row = one_population.answer("simulated 0", cells, 0, tmp_path)
    assert (row["K"], row["significant"], row["K of tree"]) == (1, 0, 1)
    text = one_population.report([row, {**row, "population": "real", "K": 3}])
    assert "simulated: auto answers 1 in 1 of 1; 0 of" in text
    assert "real: auto answers 1 in 0 of 1" in text


def test_populations_differ_in_size_and_come_again_the_same():
    assert [one_population.simulate(seed).n_obs for seed in range(4)] == [300, 800, 2000, 300]
    first, again = (one_population.simulate(1).X for _ in range(2))
    assert (first != again).nnz == 0
