import pytest

from scsiameseclu.train import Schedule


@pytest.mark.parametrize(
    ("n_obs", "expected"),
    [(500, (100, 24)), (2000, (50, 12)), (5685, (18, 6)), (10_000, (10, 6)), (20_000, (5, 3)), (1_000_000, (3, 3))],
)
def test_epochs_follow_from_cells_visited(n_obs, expected):
    schedule = Schedule.for_cells(n_obs)
    assert (schedule.n_pretrain, schedule.n_cluster) == expected
    assert schedule.max_epochs == sum(expected)


@pytest.mark.parametrize("n_obs", [1, 1000, 2000, 16_667, 10**7])
@pytest.mark.parametrize("max_epochs", [2, 3, 10, 62, 500])
def test_given_epochs_are_split_in_proportion(n_obs, max_epochs):
    """Epochs are split as in the default schedule, rounded, with at least one epoch of each phase."""
    usual, schedule = Schedule.for_cells(n_obs), Schedule.for_cells(n_obs, max_epochs)
    assert schedule.max_epochs == max_epochs
    share = max_epochs * usual.n_pretrain / usual.max_epochs
    assert min(schedule.n_pretrain, schedule.n_cluster) >= 1
    assert abs(schedule.n_pretrain - share) <= 0.5 or min(schedule.n_pretrain, schedule.n_cluster) == 1


@pytest.mark.parametrize("n_obs", [1000, 1001, 2000, 3333, 9999, 10_000, 10_001, 16_667, 30_000, 100_000])
def test_cells_visited_are_at_least_those_wanted_and_less_than_an_epoch_more(n_obs):
    """The first phase has 3 to 100 epochs; the second has 3 to 24, and at least six for up to 10,000 cells."""
    schedule = Schedule.for_cells(n_obs)
    least = 6 if n_obs <= 10_000 else max(-(-60_000 // n_obs), 3)
    for n_epochs, n_visits, (fewest, most) in (
        (schedule.n_pretrain, 100_000, (3, 100)),
        (schedule.n_cluster, 24_000, (least, 24)),
    ):
        assert fewest <= n_epochs <= most
        assert n_epochs * n_obs >= n_visits or n_epochs == most
        assert (n_epochs - 1) * n_obs < n_visits or n_epochs == fewest


def test_a_single_epoch_is_pretraining():
    assert Schedule.for_cells(2000, 1) == Schedule(1, 0)


@pytest.mark.parametrize("max_epochs", [0, -3, 2.5, 4.0])
def test_epochs_are_whole_and_at_least_one(max_epochs):
    with pytest.raises(ValueError, match="Expected max_epochs as a whole number of at least 1"):
        Schedule.for_cells(100, max_epochs)
