"""The U-Net: its size against the released one's, what it listens to, and that a
compiler can follow it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import awake
from torch import Tensor

from dalle2_edu.diffusion.unet import Attention, UNet, UNetConfig, timestep_embedding
from dalle2_edu.errors import Dalle2EduError

TINY = UNetConfig(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    context_dim=8,
    num_classes=5,
    patch_size=2,
)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Something for every input, two pictures of it; the last two of six tokens are
    masked.
    """
    return {
        "x": torch.randn(2, 3, 16, 16),
        "t": torch.tensor([3, 900]),
        "added_emb": torch.randn(2, 128),
        "context": torch.randn(2, 6, 8),
        "context_mask": torch.arange(6).expand(2, 6) < 4,
        "y": torch.tensor([0, 4]),
    }


def passed(net: UNet, inputs: dict[str, Tensor]) -> Tensor:
    """One pass, the tokens read first."""
    rest = {name: tensor for name, tensor in inputs.items() if name != "context"}
    return net(**rest, context_kv=net.project_context(inputs["context"]))


def test_adm_64_has_the_released_networks_parameters() -> None:
    adm_64 = UNetConfig(
        image_size=64,
        out_channels=6,
        channels=192,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_levels=(1, 2, 3),  # 32, 16 and 8 pixels
        head_channels=64,
        num_classes=1000,
    )
    with torch.device("meta"):  # shapes without memory
        state = UNet(adm_64).state_dict()
    assert len(state) == 541
    assert sum(tensor.numel() for tensor in state.values()) == 295_904_454


def test_it_starts_by_answering_zero(inputs: dict[str, Tensor]) -> None:
    assert not passed(UNet(TINY), inputs).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["x", "t", "added_emb", "context", "y"])
def test_it_listens_to_every_input(name: str, inputs: dict[str, Tensor]) -> None:
    net = awake(UNet(TINY))
    other = {"t": inputs["t"] + 50, "y": 4 - inputs["y"]}.get(name, inputs[name] * 1.5)
    assert (
        passed(net, inputs) - passed(net, {**inputs, name: other})
    ).abs().max() > 1e-3


@torch.no_grad()
def test_masked_tokens_are_never_read(inputs: dict[str, Tensor]) -> None:
    net, context = awake(UNet(TINY)), inputs["context"].clone()
    context[:, 4:] = 1e3  # behind the mask
    torch.testing.assert_close(
        passed(net, {**inputs, "context": context}),
        passed(net, inputs),
        rtol=0,
        atol=1e-6,
    )


@torch.no_grad()
def test_every_attention_has_its_own_keys(inputs: dict[str, Tensor]) -> None:
    net = awake(UNet(TINY))
    ran: list[Attention] = []
    for attention in net.attentions:
        attention.register_forward_hook(lambda module, *_: ran.append(module))
    passed(net, inputs)
    assert ran == net.attentions  # they are dealt out in the order in which they run
    for attention, own in zip(
        net.attentions,
        net.split_context(net.project_context(inputs["context"])),
        strict=True,
    ):
        assert torch.equal(own, attention.project_context(inputs["context"]))


@torch.no_grad()
def test_it_exports_without_a_branch_on_data(inputs: dict[str, Tensor]) -> None:
    net = awake(UNet(TINY))
    inputs["context_kv"] = net.project_context(inputs.pop("context"))
    exported = torch.export.export(net, (), inputs).module()
    other = {**inputs, "x": -inputs["x"], "context_mask": ~inputs["context_mask"]}
    torch.testing.assert_close(exported(**other), net(**other))


def test_timestep_embedding_is_cosines_then_sines() -> None:
    emb = timestep_embedding(torch.tensor([0, 7]), 8)
    assert torch.equal(emb[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    frequencies = 10_000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(
        emb[1], torch.cat([(7 * frequencies).cos(), (7 * frequencies).sin()])
    )


@pytest.mark.parametrize("wrong", [{"image_size": 18}, {"channels": 48}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Dalle2EduError, match="multiple of"):
        replace(TINY, **wrong)
