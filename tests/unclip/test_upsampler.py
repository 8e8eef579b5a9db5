"""The upsamplers: crops and whole pictures through one network, and the damage done to
the condition.
"""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_models import awake, upsampler_config
from torch import Tensor

from dalle2_edu.diffusion.unet import Attention, UNetConfig
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.unclip.upsampler import (
    Upsampler,
    UpsamplerConfig,
    blur_condition,
    bsr_condition,
    enlarge,
    from_detail,
    reduce,
    to_detail,
    upsample,
    upsampler_diffusion,
    upsampler_stage,
)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def test_karlos_upsampler_has_the_released_networks_parameters() -> None:
    unet = UNetConfig(
        image_size=256,
        in_channels=6,
        channels=320,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_levels=(),
        scale_shift_norm=False,
        middle_attention=False,
    )
    with torch.device("meta"):
        upsampler = Upsampler(UpsamplerConfig(unet=unet))
    assert sum(parameter.numel() for parameter in upsampler.parameters()) == 691_579_523


@torch.no_grad()
def test_one_network_for_crops_and_whole_pictures() -> None:
    upsampler = awake(Upsampler(upsampler_config(64)))
    assert not any(isinstance(module, Attention) for module in upsampler.modules())
    for side in (16, 64):
        out = upsampler(
            torch.randn(2, 3, side, side),
            torch.tensor([1, 500]),
            torch.randn(2, 3, side // 2, side // 2),
        )
        assert out.shape == (2, 3, side, side)


@torch.no_grad()
def test_it_looks_at_the_small_picture() -> None:
    upsampler, x_t, t = (
        awake(Upsampler(upsampler_config(64))),
        torch.randn(1, 3, 16, 16),
        torch.tensor([500]),
    )
    one, other = torch.randn(2, 1, 3, 8, 8)
    assert (upsampler(x_t, t, one) - upsampler(x_t, t, other)).abs().max() > 1e-3


def test_schedules_are_table_3s() -> None:
    first, second = (upsampler_diffusion(upsampler_config(size)) for size in (64, 128))
    assert first.alphas_cumprod[500] == pytest.approx(0.494, abs=2e-3)  # cosine
    assert second.alphas_cumprod[500] == pytest.approx(0.079, abs=2e-3)  # linear


def test_reduce_is_the_box_average() -> None:
    assert reduce(torch.arange(16.0).reshape(1, 1, 4, 4), 2).flatten().tolist() == [
        2.5,
        4.5,
        10.5,
        12.5,
    ]


def test_detail_is_what_the_small_picture_lacks() -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    low_res = reduce(images, 2)
    torch.testing.assert_close(from_detail(to_detail(images, low_res), low_res), images)
    nothing = torch.zeros(2, 3, 16, 16)
    assert torch.equal(from_detail(nothing, low_res), enlarge(low_res, 16).clamp(-1, 1))


def test_a_stage_doubles_the_picture_and_stays_in_range() -> None:
    upsampler = awake(Upsampler(upsampler_config(64)))
    low_res, seen = torch.rand(2, 3, 16, 16) * 2 - 1, []
    stage = upsampler_stage(upsampler.config).changed(steps=3)
    noise = SeededNoise([1, 2])
    drawn = upsample(
        upsampler, stage, low_res, noise, callback=lambda step, *_: seen.append(step)
    )
    assert drawn.shape == (2, 3, 32, 32)
    assert drawn.abs().max() <= 1
    assert seen == [0, 1, 2]


def test_blur_is_the_papers_gaussian_on_about_half_of_the_pictures() -> None:
    images = torch.rand(64, 3, 8, 8) * 2 - 1
    damaged = blur_condition(images, seeded(0))
    # kernel 3: one pixel to each side; "mirror" is what torchvision calls reflect
    blurred = torch.from_numpy(
        gaussian_filter(images.numpy(), 0.6, mode="mirror", radius=1, axes=(2, 3))
    )
    was_blurred = torch.tensor(
        [not torch.equal(*pair) for pair in zip(damaged, images, strict=True)]
    )
    assert 16 < was_blurred.sum() < 48
    torch.testing.assert_close(
        damaged[was_blurred], blurred[was_blurred], rtol=0, atol=1e-6
    )


def test_bsr_is_the_generators_doing_and_stays_in_range() -> None:
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    seeds = range(12)
    damaged = torch.stack(
        [bsr_condition(images, seeded(seed)) for seed in seeds]
    )  # (12, 8, 3, 16, 16)
    again = torch.stack([bsr_condition(images, seeded(seed)) for seed in seeds])
    assert torch.equal(damaged, again)
    assert damaged.abs().max() <= 1
    harm = (damaged - images).square().mean(dim=(2, 3, 4)).sqrt()  # (12, 8)
    assert harm.min() < 0.05 < 0.15 < harm.max()  # from hardly any to much
    assert len(set(harm.flatten().tolist())) == harm.numel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("damage", [blur_condition, bsr_condition])
def test_damage_takes_a_generator_on_the_gpu(damage) -> None:
    images: Tensor = torch.zeros(2, 3, 16, 16, device="cuda")
    assert damage(images, seeded(0, "cuda")).device.type == "cuda"
