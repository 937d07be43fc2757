import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from tests.reference import losses as reference
from wbcnets.errors import ConfigError
from wbcnets.losses import CenterLoss


def loss_with_centers(classes=3, width=4, **kwargs):
    loss = CenterLoss(classes, width, **kwargs).double()
    torch.nn.init.normal_(loss.centers)
    return loss


def batch(rows=7, width=4, classes=3):
    features = torch.randn(rows, width, dtype=torch.float64)
    return features, torch.arange(rows) % classes


def test_loss_and_centers_equal_the_papers_equations():
    loss = loss_with_centers(alpha=0.3)
    features, labels = batch()
    labels[labels == 2] = 0  # a class without images keeps its center
    before = loss.centers.clone()
    value = loss(features, None, labels)
    assert value.item() == pytest.approx(reference.center(features, labels, before))
    moved = torch.stack(reference.moved_centers(features, labels, before, 0.3))
    torch.testing.assert_close(loss.centers, moved)
    assert torch.equal(loss.centers[2], before[2])


def test_hand_worked_number():
    # Distances of 5 and 0 to a center of 0: (25 / 2 + 0) / 2. The center moves by 0.5 * 3 / (1 + 2)
    loss = CenterLoss(1, 2, alpha=0.5)
    value = loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), None, torch.tensor([0, 0]))
    assert value.item() == pytest.approx(6.25)
    torch.testing.assert_close(loss.centers, torch.tensor([[0.5, 4 / 6]]))


def test_evaluation_moves_nothing():
    loss = loss_with_centers().eval()
    before = loss.centers.clone()
    loss(*batch()[:1], None, batch()[1])
    assert torch.equal(loss.centers, before)


def test_gradients():
    loss = loss_with_centers().eval()
    features, labels = batch()
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, None, labels), (features,))


def test_moving_centers_leaves_the_gradient_alone():
    loss = loss_with_centers()
    features, labels = batch()
    features.requires_grad_()
    before = loss.centers.clone()
    loss(features, None, labels).backward()
    torch.testing.assert_close(features.grad, (features.detach() - before[labels]) / len(labels))


def test_centers_go_to_the_means_of_their_classes():
    loss = CenterLoss(2, 3)
    features = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]])
    for _ in range(60):
        loss(features, None, torch.tensor([0, 1]))
    torch.testing.assert_close(loss.centers, features, rtol=1e-4, atol=1e-4)


def test_state_goes_on_where_it_was():
    loss = loss_with_centers()
    again = CenterLoss(3, 4).double()
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.centers, loss.centers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_finite(dtype):
    loss = CenterLoss(3, 4)
    features = (6e4 * torch.rand(5, 4)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(features, None, torch.tensor([0, 1, 2, 0, 1]))
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert loss.centers.isfinite().all()


def test_compiles_as_one_graph():
    loss = loss_with_centers()
    twin = copy.deepcopy(loss)
    features, labels = batch()
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(features, None, labels), loss(features, None, labels))
    torch.testing.assert_close(twin.centers, loss.centers)


def move_in_one_of_two(rank, store, state, features, labels, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    loss = CenterLoss(3, 4).double()
    loss.load_state_dict(state)
    loss(features[rank::2], None, labels[rank::2])
    results[rank] = loss.centers.tolist()
    dist.destroy_process_group()


def test_two_processes_move_centers_as_one(tmp_path):
    loss = loss_with_centers()
    state = copy.deepcopy(loss.state_dict())
    features, labels = batch(8)
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (str(tmp_path / "store"), state, features, labels, results)
        multiprocessing.start_processes(
            move_in_one_of_two, arguments, nprocs=2, start_method="fork"
        )
        centers = [torch.tensor(results[rank], dtype=torch.float64) for rank in (0, 1)]
    loss(features, None, labels)
    assert torch.equal(centers[0], centers[1])
    torch.testing.assert_close(centers[0], loss.centers)


def test_bad_numbers_and_inputs_are_errors():
    with pytest.raises(ConfigError, match="alpha=2"):
        CenterLoss(2, 3, alpha=2)
    with pytest.raises(ConfigError, match="needs the features"):
        CenterLoss(2, 3)(None, torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ConfigError, match="feature_dim=5"):
        CenterLoss(2, 3)(torch.zeros(1, 5), None, torch.tensor([0]))


def test_is_made_on_the_meta_device():
    assert CenterLoss(2, 3, device="meta").centers.is_meta
