"""The moving average against its closed form."""

import torch
from torch import nn

from dalle2_edu.training import EMA, ema_decay


def test_decay_warms_up_from_a_tenth() -> None:
    assert ema_decay(0, 0.999) == 0.1
    assert ema_decay(90, 0.999) == 0.91
    assert ema_decay(10**6, 0.999) == 0.999


def test_average_is_the_weighted_sum_of_all_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    history = [[p.detach().clone().double() for p in model.parameters()]]
    ema = EMA(model, 0.6)
    for step in range(12):
        with torch.no_grad():
            for p in model.parameters():
                p.normal_()
        history.append([p.detach().clone().double() for p in model.parameters()])
        ema.update(model, step)
    decays = torch.tensor([ema_decay(s, 0.6) for s in range(12)], dtype=torch.float64)
    # The weights of step s enter with (1 - d_s) and are damped by every later d.
    shares = torch.cat([torch.ones(1), 1 - decays]) * torch.cat(
        [decays, torch.ones(1)]
    ).flip(0).cumprod(0).flip(0)
    for k, average in enumerate(ema.module.parameters()):
        expected = sum(
            share * weights[k] for share, weights in zip(shares, history, strict=True)
        )
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_average_keeps_buffers_and_frozen_weights_and_needs_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)
    ema = EMA(model, 0.9)
    model(torch.randn(8, 3))  # moves the running mean
    ema.update(model, 0)
    assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
    assert torch.equal(ema.module[0].weight, model[0].weight)
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
