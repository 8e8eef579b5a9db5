"""Muon: what it does to a gradient, which parameters it takes, and that a run
resumes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dalle2_edu.training.muon import Muon, is_hidden_matrix, orthogonalise
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 8, 40), (2, 40, 8)])
def test_an_orthogonalised_gradient_is_as_long_in_every_direction(
    shape: tuple[int, int, int],
) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    gradient[:, 0] *= 100  # one direction drowns the others
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    answer = orthogonalise(gradient)
    # on each singular direction of the gradient, about 1
    lengths = torch.einsum("nri,nrc,nic->ni", u, answer, v)
    assert lengths.min() > 0.4
    assert lengths.max() < 1.3


def test_first_layers_last_layers_and_tables_stay_with_adam() -> None:
    named = dict(Decoder(DecoderConfig(text_layers=1)).named_parameters())
    taken = {name for name, weight in named.items() if is_hidden_matrix(name, weight)}
    assert {"unet.middle.res1.conv1.weight", "image_to_tokens.weight"} <= taken
    left = {
        "unet.stem.weight",
        "unet.head.weight",
        "unet.position",
        "text.token.weight",
    }
    assert left.isdisjoint(taken)
    assert not any(name.endswith("bias") for name in taken)


def step(model: nn.Module, optimizer: Muon, seed: int) -> None:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_resumed_run_goes_on_as_if_nothing_had_happened() -> None:
    model = network()
    optimizer = Muon(model)
    for seed in range(4):
        step(model, optimizer, seed)
    again = network()
    first = Muon(again)
    for seed in range(2):
        step(again, first, seed)
    second = Muon(again)
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        step(again, second, seed)
    torch.testing.assert_close(weights(again), weights(model), rtol=0, atol=0)


def test_a_matrix_moves_as_far_as_adam_would_move_it() -> None:
    model = nn.Sequential(nn.Linear(32, 48, bias=False))
    before = model[0].weight.detach().clone()
    optimizer = Muon(model, lr=1e-3, weight_decay=0.0)
    model(torch.randn(64, 32)).square().mean().backward()
    optimizer.step()
    moved = (model[0].weight.detach() - before).square().mean().sqrt()
    assert 0.1e-3 < float(moved) < 0.3e-3  # 0.2 of the learning rate
