"""The autoencoders' tasks: their losses, their grids, and a smoke run on emoji."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dalle2_edu.baselines.autoencoders import AutoencoderConfig, VaeConfig
from dalle2_edu.data import shapes
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import autoencoders, runs
from dalle2_edu.recipes.autoencoders import SIZE, AutoencoderTask, VaeTask
from dalle2_edu.recipes.data import domain_pairs
from dalle2_edu.training import TrainConfig, train

CONFIG = TrainConfig(steps=1, batch_size=4)
VAE = VaeConfig(image_size=8, channels=(8,), latent=3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def vae_task(**options: float) -> VaeTask:
    torch.manual_seed(0)
    return VaeTask("vae", shapes.pairs(6, 16), CONFIG, VAE, **options)


def autoencoder_task(noise: float) -> AutoencoderTask:
    torch.manual_seed(0)
    config = AutoencoderConfig(image_size=8, channels=(8,), latent=3, noise=noise)
    return AutoencoderTask("ae", shapes.pairs(6, 16), CONFIG, config)


def test_beta_and_free_bits_are_the_price_of_the_rate() -> None:
    def loss_of(**options: float) -> tuple[float, dict[str, torch.Tensor]]:
        task = vae_task(**options)
        batch = task.batch(torch.arange(4))
        loss, numbers = task.loss(task.model, batch, generator())
        return loss.item(), numbers

    one, numbers = loss_of()
    assert one == pytest.approx((numbers["distortion"] + numbers["rate"]).item())
    five, _ = loss_of(beta=5)
    assert five - one == pytest.approx(4 * numbers["rate"].item(), rel=1e-3)
    free, _ = loss_of(free=2)  # 3 numbers with 2 nats each, of 192 dimensions
    assert free == pytest.approx(numbers["distortion"].item() + 6 / 192)
    assert vae_task(beta=5).metadata()["beta"] == 5


def test_noise_reaches_what_the_network_reads_and_not_what_it_must_answer() -> None:
    for noise in (0.0, 0.5):
        task = autoencoder_task(noise)
        read = []
        task.model.register_forward_pre_hook(lambda _, x, read=read: read.append(x[0]))
        batch = task.batch(torch.arange(4))
        clean = batch["images"] / 127.5 - 1
        task.loss(task.model, batch, generator())
        assert abs((read[0] - clean).std().item() - noise) < 0.05


def test_grids_are_pictures() -> None:
    with torch.no_grad():
        copies = autoencoder_task(0.5).sample(autoencoder_task(0.5).model)
        drawn = vae_task().sample(vae_task().model)
    assert copies is not None and copies.shape == (12, 3, 8, 8)
    assert drawn is not None and drawn.shape == (autoencoders.GRID, 3, 8, 8)
    assert max(copies.abs().max(), drawn.abs().max()) <= 1


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(Dalle2EduError, match="beta is -1"):
        vae_task(beta=-1)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_emoji_alone_train_them_too(name: str, tmp_path: Path) -> None:
    training = runs.find(name, "smoke")
    task = training.task(training.config, own=domain_pairs("emoji", "smoke", SIZE))
    train(task, tmp_path / "run", progress=False, device="cpu")
    picture = task.model.decode(torch.zeros(1, 64))
    assert picture.shape == (1, 3, 32, 32) and picture.isfinite().all()
