"""The unconditional model: its parts agree with each other, and a seed is a picture."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny_models import awake

from dalle2_edu.config import from_dict
from dalle2_edu.diffusion.ddpm import DDPM, IDDPM, Ddpm, DdpmConfig
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError

TINY = UNetConfig(
    image_size=8,
    channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_levels=(),
)


def tiny(**changes) -> Ddpm:
    torch.manual_seed(0)
    classes, channels = changes.pop("num_classes", None), changes.pop("out_channels", 3)
    unet = replace(TINY, num_classes=classes, out_channels=channels)
    return awake(Ddpm(DdpmConfig("cosine", timesteps=20, unet=unet, **changes)))


@pytest.mark.parametrize("config", [DDPM, IDDPM])
def test_presets_denoise_and_come_back_from_json(config):
    model = Ddpm(config)
    out = model(torch.randn(2, 3, 16, 16), torch.tensor([0, 999]))
    assert out.shape == (2, config.unet.out_channels, 16, 16)
    assert model.diffusion.variance == config.variance
    assert from_dict(DdpmConfig, json.loads(json.dumps(asdict(config)))) == config
    assert sum(p.numel() for p in model.parameters()) < 1.5e6  # 3 MB in the zoo


def test_channels_must_fit_the_variance():
    with pytest.raises(Dalle2EduError, match="must answer 6 channels, not 3"):
        DdpmConfig(variance="learned_range", unet=TINY)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm"])
@pytest.mark.parametrize(
    ("variance", "channels"), [("fixed_small", 3), ("learned_range", 6)]
)
def test_a_seed_is_a_picture_alone_and_in_a_batch(sampler, variance, channels):
    model = tiny(variance=variance, out_channels=channels)
    pictures = model.sample([4, 5, 6], 7, sampler, eta=0.5)
    assert pictures.shape == (3, 3, 8, 8) and pictures.isfinite().all()
    assert torch.allclose(
        model.sample([6, 4], 7, sampler, eta=0.5), pictures[[2, 0]], atol=1e-5
    )
    assert not torch.allclose(pictures[0], pictures[1], atol=0.1)


def test_all_steps_are_the_default_and_are_counted():
    seen = []
    tiny().sample([0], callback=lambda step, x, pred_x0: seen.append(step))
    assert seen == list(range(20))


def test_labels_matter_to_a_model_with_classes():
    model = tiny(num_classes=4)
    one, other = (
        model.sample([0], 5, "ddim", y=torch.tensor([label])) for label in (0, 1)
    )
    assert not torch.allclose(one, other, atol=1e-3)


def test_unknown_sampler_lists_the_known():
    with pytest.raises(Dalle2EduError, match="ancestral, ddim or dpm"):
        tiny().sample([0], 5, "heun")
