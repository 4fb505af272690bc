import numpy as np
import pytest

from scsiameseclu.pp import Landmarks, fuzzy_weights, knn

K = 5


@pytest.fixture
def rep():
    return np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)


@pytest.fixture
def batch():
    return np.random.default_rng(1).choice(["a", "b", "c"], 120, p=[0.5, 0.4, 0.1])


def blocks(landmarks, rep, batch=None):
    """Representation and weights of the neighbours, without padding."""
    indices, distances = landmarks.nearest(rep, batch)
    assert np.isfinite(distances).all()
    own_batch = landmarks.batch[indices] if landmarks.batches else None
    return landmarks.rep[indices], fuzzy_weights(distances.astype(np.float32), batch=own_batch)


def test_reference_cells_of_many_batches_get_the_block_they_were_trained_with(rep):
    labels = np.array([f"b{i % 12:02}" for i in range(120)])
    graph = knn(rep, K, batch=labels)
    found, weights = blocks(Landmarks.choose(rep, labels, K), rep, labels)
    assert np.allclose(found, rep[graph.indices], atol=1e-5)
    assert np.allclose(weights, graph.weights, atol=1e-3)


def test_states_in_which_all_batches_ask_alike_can_be_read(rep, batch):
    landmarks = Landmarks.choose(rep, batch, K)
    state = {**landmarks.to_state(), "quotas": landmarks.quotas[0]}
    del state["rows"]
    again = Landmarks.from_state(state)
    assert np.array_equal(again.quotas, landmarks.quotas)
    assert np.array_equal(again.nearest(rep, batch)[0], landmarks.nearest(rep, batch)[0])


@pytest.mark.parametrize("n_kept", [0, 30])
def test_some_landmarks_can_be_left_out(rep, batch, n_kept):
    landmarks, kept = Landmarks.choose(rep, batch, K).thinned(n_kept)
    assert len(landmarks) == len(kept) == n_kept
    assert np.array_equal(landmarks.rep, rep[kept])
    assert np.array_equal(landmarks.rows, kept)
    indices, distances = landmarks.nearest(rep + 1, batch)
    assert np.isfinite(distances).any() == (n_kept > 0)
    assert indices.shape[0] == 120


@pytest.mark.parametrize("balanced", [False, True])
def test_reference_cells_get_the_block_they_were_trained_with(rep, batch, balanced):
    rep[7] = rep[8]  # true duplicates, in the same or in different batches
    rep[20:40] = rep[20]
    labels = batch if balanced else None
    graph = knn(rep, K, batch=labels)
    landmarks = Landmarks.choose(rep, labels, K)
    # The cells are in another order, and the matrix product rounds differently.
    order = np.random.default_rng(2).permutation(120)
    again = rep[order] * np.float32(1 + 1e-6)
    found, weights = blocks(landmarks, again, None if labels is None else labels[order])
    assert np.allclose(found, rep[graph.indices[order]], atol=1e-5)
    assert np.allclose(weights, graph.weights[order], atol=1e-3)


def test_the_other_cells_do_not_matter(rep):
    landmarks = Landmarks.choose(rep[:80], None, K)
    together = landmarks.nearest(rep[80:])
    for i in (0, 17, 39):
        alone = landmarks.nearest(rep[80 + i : 81 + i])
        assert np.array_equal(alone[0][0], together[0][i])
        assert np.array_equal(alone[1][0], together[1][i])


def test_batches_give_what_they_gave_in_the_reference(rep, batch):
    landmarks = Landmarks.choose(rep, batch, K)
    indices, _ = landmarks.nearest(rep[:6] + 1, ["a", "b", "c", "new", "new", "a"])
    assert np.array_equal(
        np.stack([np.bincount(row, minlength=3) for row in landmarks.batch[indices]]), [[2, 2, 1]] * 6
    )


def test_only_a_landmark_of_its_own_batch_can_be_the_cell_itself():
    rep = np.array([[0.0, 0], [0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], dtype=np.float32)
    landmarks = Landmarks.choose(rep, np.array(["a", "b", "a", "b", "a", "b"]), 2)
    nearest = {name: landmarks.nearest(rep[:1], [name])[0][0].tolist() for name in ("a", "b", "new")}
    assert nearest == {"a": [1, 2], "b": [0, 3], "new": [1, 2]}


def test_few_reference_cells(rep):
    indices, distances = Landmarks.choose(rep[:3], None, K).nearest(rep[:5])
    assert indices.shape == (5, 2)
    assert np.isfinite(distances).all()
    indices, distances = Landmarks.choose(rep[:1], None, K).nearest(rep[:5])
    assert indices.shape == (5, 0)


def test_a_large_reference_is_sampled_evenly():
    rng = np.random.default_rng(0)
    rare = rng.normal(size=(15, 3)) + 40
    rep = np.concatenate([rng.normal(size=(3000, 3)), rare]).astype(np.float32)
    batch = np.where(np.arange(3015) % 300 == 0, "few", "many")
    landmarks = Landmarks.choose(rep, batch, 6, limit=600)
    assert len(landmarks) == 600
    assert (landmarks.rep[:, 0] > 20).sum() == 15  # a random fifth would have kept 3
    assert (landmarks.batch == 0).sum() > 6
    same = Landmarks.choose(rep, batch, 6, limit=600)
    assert same.digest == landmarks.digest
    assert landmarks.nearest(rep[:9], batch[:9])[0].shape == (9, 6)


def test_state_round_trip(rep, batch):
    landmarks = Landmarks.choose(rep, batch, K)
    copy = Landmarks.from_state(landmarks.to_state())
    assert copy.digest == landmarks.digest
    assert Landmarks.choose(rep + 1, batch, K).digest != landmarks.digest


def test_another_width_is_refused(rep):
    with pytest.raises(ValueError, match="4 columns"):
        Landmarks.choose(rep, None, K).nearest(rep[:, :2])


def test_novelty_is_uniform_on_the_reference_and_high_far_from_it(rep):
    landmarks = Landmarks.choose(rep, None, K)
    own = landmarks.novelty(rep)
    assert own.dtype == np.float32
    assert np.allclose(np.sort(own), np.arange(120) / 120, atol=0.01)
    assert (landmarks.novelty(rep[:5] + 20) == 1).all()


def test_novelty_is_relative_to_the_density():
    rng = np.random.default_rng(0)
    dense, sparse = 0.1 * rng.normal(size=(200, 2)), 5 * rng.normal(size=(200, 2)) + 100
    landmarks = Landmarks.choose(np.concatenate([dense, sparse]).astype(np.float32), None, K)
    # The distance is the same in both cases: far outside of the dense cells, but within the sparse cells.
    near_dense, among_sparse = landmarks.novelty(np.array([[2.0, 0], [102, 100]], dtype=np.float32))
    assert near_dense > 0.99 > among_sparse
