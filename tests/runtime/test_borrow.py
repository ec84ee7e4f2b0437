"""A borrowed model comes back exactly as it was."""

import pytest
import torch
from torch import nn

from advcore.runtime.borrow import borrow

pytestmark = pytest.mark.case("E2")


def lent():
    """Mixed modes, a frozen parameter, gradients present, a shared module, a buffer that is not saved."""
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.BatchNorm1d(4), nn.Dropout(0.5), shared, nn.BatchNorm1d(4))
    model.register_buffer("count", torch.tensor(3), persistent=False)
    model.register_buffer("nothing", None)
    model(torch.rand(6, 4)).sum().backward()
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    return model


def state(model):
    """Everything that a borrower might disturb, by name."""
    return {
        "modes": [module.training for module in model.modules()],
        "asks": [parameter.requires_grad for parameter in model.parameters()],
        "parameters": [parameter.detach().clone() for parameter in model.parameters()],
        "gradients": [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
    }


def assert_same(left, right):
    for name in left:
        for a, b in zip(left[name], right[name], strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def attack_like(model):
    x = torch.rand(6, 4, requires_grad=True)
    model(x).square().sum().backward()


def move_statistics(model):
    with torch.no_grad():
        model(torch.rand(6, 4) + 5)


def overwrite_buffers(model):
    model.count.add_(1)
    model[1].running_mean = torch.full((4,), 7.0)
    model[4].num_batches_tracked.zero_()


def change_modes(model):
    model[2].train(not model[2].training)
    model[0].weight.requires_grad_(True)


USES = [attack_like, move_statistics, overwrite_buffers, change_modes]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("raises", [False, True])
def test_everything_comes_back_bitwise(use, training, raises):
    model = lent()
    before = state(model)
    if raises:
        with pytest.raises(KeyError), borrow(model, training=training) as borrowed:
            use(borrowed)
            raise KeyError
    else:
        with borrow(model, training=training) as borrowed:
            use(borrowed)
    assert_same(before, state(model))


@pytest.mark.parametrize("training", [False, True])
def test_inside_the_modules_are_in_the_mode_and_no_parameter_asks(training):
    """In train mode, what the lender had in eval mode stays so."""
    with borrow(lent(), training=training) as model:
        assert [module.training for module in model.modules()] == [training, training, False, training, training]
        assert not any(parameter.requires_grad for parameter in model.parameters())
        x = torch.rand(6, 4, requires_grad=True)
        assert torch.autograd.grad(model(x).sum(), x)[0].shape == x.shape


def test_train_mode_does_move_statistics_inside():
    model = lent()
    with borrow(model, training=True):
        before = [model[i].running_mean.clone() for i in (1, 4)]
        move_statistics(model)
        assert torch.equal(before[0], model[1].running_mean)
        assert not torch.equal(before[1], model[4].running_mean)


def test_a_model_that_is_in_eval_mode_as_a_whole_is_in_train_mode_as_a_whole():
    model = lent().eval()
    with borrow(model, training=True):
        assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.modules())


def test_borrows_nest():
    model = lent()
    before = state(model)
    with borrow(model, training=True):
        with borrow(model):
            assert not model.training
        assert model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert_same(before, state(model))
