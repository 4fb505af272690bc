import pytest
import torch

from scsiameseclu.nn import ClusterHead
from scsiameseclu.ot import sinkhorn


@pytest.fixture
def points():
    torch.manual_seed(0)
    return torch.randn(50, 4) + 3.0


@pytest.fixture
def head(points):
    head = ClusterHead(3, 4)
    head.initialise(points[:3], torch.tensor([0.5, 0.3, 0.2]), points.mean(dim=0))
    return head


def test_cosine_logits(head, points):
    expected = (
        torch.cosine_similarity((points - head.origin)[:, None], (head.centers - head.origin)[None], dim=-1) / 0.1
    )
    assert torch.allclose(head(points), expected, atol=1e-4)
    assert head(points)[:3].argmax(dim=1).tolist() == [0, 1, 2]


def test_student_t_assignment_is_the_published_kernel(points):
    head = ClusterHead(3, 4, kernel="student_t")
    head.initialise(points[:3], torch.full((3,), 1 / 3), points.mean(dim=0))
    kernel = 1.0 / (1.0 + torch.cdist(points, points[:3]).square())
    assert torch.allclose(head(points).softmax(dim=1), kernel / kernel.sum(dim=1, keepdim=True), atol=1e-4)


def test_targets_follow_from_the_duals_and_meet_the_marginals(head, points):
    scaled = (head.sharpening * head(points)).detach()
    result = sinkhorn(scaled, head.marginals, n_iter=2000)
    head.update_targets(result.column_duals, head.marginals)
    targets = head.targets(head(points))
    assert torch.allclose(targets, result.target, atol=1e-5)
    assert torch.allclose(targets.mean(dim=0), torch.tensor([0.5, 0.3, 0.2]), atol=1e-4)
    assert not targets.requires_grad


def test_reordering_permutes_everything_together(head, points):
    head.update_targets(torch.tensor([1.0, 2.0, 3.0]), head.marginals)
    before = head(points)
    targets = head.targets(before)
    head.reorder(torch.tensor([2, 0, 1]))
    assert torch.allclose(head(points), before[:, [2, 0, 1]])
    assert torch.allclose(head.targets(head(points)), targets[:, [2, 0, 1]], atol=1e-6)
    assert head.marginals.tolist() == pytest.approx([0.2, 0.5, 0.3])


def test_state_survives_a_state_dict(head, points):
    other = ClusterHead(3, 4)
    assert not other.is_initialised
    other.load_state_dict(head.state_dict())
    assert other.is_initialised
    assert torch.equal(other(points), head(points))


def test_centers_are_trainable(head, points):
    head(points).sum().backward()
    assert head.centers.grad is not None
    assert head.centers.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kernel": "dot"}, "kernel"), ({"temperature": 0.0}, "temperature"), ({"sharpening": -1.0}, "sharpening")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClusterHead(3, 4, **options)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_the_assignments_become_as_certain_as_asked(head, points, confidence):
    before = head(points).argmax(dim=1)
    head.calibrate(points, confidence)
    assert head(points).softmax(dim=1).amax(dim=1).mean().item() == pytest.approx(confidence, abs=1e-3)
    assert torch.equal(head(points).argmax(dim=1), before)
    weights = torch.linspace(0.0, 1.0, len(points))
    head.calibrate(points, confidence, weights)
    sure = head(points).softmax(dim=1).amax(dim=1)
    assert (sure @ weights / weights.sum()).item() == pytest.approx(confidence, abs=1e-3)


def test_only_cosine_kernels_of_several_clusters_have_a_temperature_to_set(points):
    for head in (ClusterHead(3, 4, kernel="student_t"), ClusterHead(1, 4)):
        head.initialise(points[: head.n_clusters], torch.ones(head.n_clusters) / head.n_clusters, points.mean(dim=0))
        before = head(points)
        head.calibrate(points, 0.7)
        assert torch.equal(head(points), before)


def test_the_temperature_is_part_of_the_state(head, points):
    head.calibrate(points, 0.6)
    other = ClusterHead(3, 4)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(points), head(points))
    early = {key: value for key, value in head.state_dict().items() if key != "temperature"}
    other = ClusterHead(3, 4, temperature=0.2)
    other.load_state_dict(early)
    assert other.temperature.item() == pytest.approx(0.2)
