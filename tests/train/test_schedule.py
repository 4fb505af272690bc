import pytest

from scsiameseclu.train import Schedule


@pytest.mark.parametrize(
    ("n_obs", "expected"),
    [(500, (100, 24)), (2000, (50, 12)), (5685, (18, 6)), (1_000_000, (10, 6))],
)
def test_epochs_follow_from_cells_visited(n_obs, expected):
    schedule = Schedule.for_cells(n_obs)
    assert (schedule.n_pretrain, schedule.n_cluster) == expected
    assert schedule.max_epochs == sum(expected)


@pytest.mark.parametrize("max_epochs", [2, 3, 10, 500])
def test_given_epochs_are_split_in_proportion(max_epochs):
    schedule = Schedule.for_cells(2000, max_epochs)
    assert schedule.max_epochs == max_epochs
    assert schedule.n_pretrain >= 1
    assert schedule.n_cluster >= 1
    assert schedule.n_pretrain / max_epochs == pytest.approx(50 / 62, abs=0.5)


def test_a_single_epoch_is_pretraining():
    assert Schedule.for_cells(2000, 1) == Schedule(1, 0)


@pytest.mark.parametrize("max_epochs", [0, -3, 2.5, 4.0])
def test_epochs_are_whole_and_at_least_one(max_epochs):
    with pytest.raises(ValueError, match="Expected max_epochs as a whole number of at least 1"):
        Schedule.for_cells(100, max_epochs)
