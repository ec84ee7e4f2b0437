"""Optimisers against their papers' formulas, worked by hand."""

import math

import pytest
import torch
from torch import nn

from advcore.training import AdamW


def test_two_steps_of_adamw_are_the_papers_algorithm_2():
    lr, decay, first, second, eps = 0.1, 0.2, 0.8, 0.95, 1e-8
    model = nn.Linear(1, 1, bias=False).double()
    weight = model.weight.item()
    optimizer = AdamW(lr=lr, weight_decay=decay, beta1=first, beta2=second).build(model)
    mean = square = 0.0
    for step, gradient in ((1, 0.5), (2, -1.5)):
        model.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        direction = mean / (1 - first**step) / (math.sqrt(square / (1 - second**step)) + eps)
        weight -= lr * decay * weight + lr * direction
        assert model.weight.item() == pytest.approx(weight, abs=1e-12)
