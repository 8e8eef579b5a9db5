"""The unconditional model's task: what it calls a loss, and that its memory survives a
stop.
"""

from pathlib import Path

import pytest
import torch

from dalle2_edu.data import shapes
from dalle2_edu.diffusion.ddpm import DdpmConfig
from dalle2_edu.diffusion.importance import ImportanceSampler
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes.diffusion import DdpmTask
from dalle2_edu.training import TrainConfig, load_checkpoint, train

CONFIG = TrainConfig(
    steps=9, batch_size=16, warmup=2, log_every=3, save_every=3, ema=0.9
)


def unet(out_channels: int = 3, num_classes: int | None = None) -> UNetConfig:
    return UNetConfig(
        image_size=8,
        out_channels=out_channels,
        channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_levels=(),
        middle_attention=False,
        num_classes=num_classes,
    )


def make(config: DdpmConfig, **options) -> DdpmTask:
    torch.manual_seed(0)
    images, labels = shapes.single_objects(32, 8)
    return DdpmTask("tiny", images, CONFIG, config, labels, **options)


SIMPLE = DdpmConfig("cosine", timesteps=20, unet=unet())
LEARNED = DdpmConfig("cosine", timesteps=4, variance="learned_range", unet=unet(6))


@pytest.mark.parametrize(
    ("config", "options", "names"),
    [
        (SIMPLE, {}, {"mse"}),
        (LEARNED, {}, {"mse", "vb"}),
        (LEARNED, {"objective": "bound", "importance": True}, set()),
        (DdpmConfig("cosine", timesteps=20, unet=unet(num_classes=8)), {}, {"mse"}),
    ],
)
def test_losses_and_their_names(
    config: DdpmConfig, options: dict, names: set[str]
) -> None:
    task = make(config, **options)
    loss, numbers = task.loss(
        task.model, task.batch(torch.arange(16)), torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert loss.isfinite() and set(numbers) == names


def test_the_bound_teaches_the_mean_too_and_the_hybrid_loss_does_not() -> None:
    """The network's last layer answers (mean, variance); only L_simple's gradient may
    reach the first half.
    """
    grads = {}
    for objective in ("published", "bound"):
        task = make(LEARNED, objective=objective)
        x0, index = torch.rand(8, 3, 8, 8), torch.randint(4, (8,))
        kind = (
            task.diffusion.vlb_losses
            if objective == "bound"
            else task.diffusion.training_losses
        )
        losses = kind(task.model, x0, index, torch.randn_like(x0))
        losses["loss" if objective == "bound" else "vb"].sum().backward()
        grads[objective] = task.model.unet.head.bias.grad
    assert (
        grads["published"][:3].abs().max() == 0
        and grads["published"][3:].abs().max() > 0
    )
    assert grads["bound"][:3].abs().max() > 0 and grads["bound"][3:].abs().max() > 0


def test_killed_and_resumed_with_importance_sampling_is_the_unbroken_run(
    tmp_path: Path,
) -> None:
    def run(name: str, **options) -> Path:
        task = make(LEARNED, objective="bound", importance=True)
        return train(task, tmp_path / name, progress=False, device="cpu", **options)

    whole = load_checkpoint(run("whole")).tensors
    assert run("broken", max_minutes=0).name == "step-00000001"
    resumed = load_checkpoint(run("broken", resume=True)).tensors
    assert (
        whole["task"]["counts"].sum() == 9 * 16 and whole["task"]["counts"].min() >= 10
    )  # it was warm: it mattered
    for part, named in whole.items():
        assert all(
            torch.equal(resumed[part][name], tensor) for name, tensor in named.items()
        ), part


def test_importance_sampling_weighs_what_it_draws() -> None:
    task = make(LEARNED, objective="bound", importance=True)
    sampler = task.state
    assert isinstance(sampler, ImportanceSampler)
    for _ in range(10):
        sampler.record(torch.arange(4), torch.tensor([8.0, 1.0, 1.0, 1.0]))
    index, weights = task.draw_timesteps(64, torch.Generator().manual_seed(0))
    assert (index == 0).sum() > 32
    assert weights[index == 0].max() < 1 < weights[index > 0].min()


def test_classes_need_labels() -> None:
    images, _ = shapes.single_objects(4, 8)
    with pytest.raises(Dalle2EduError, match="labels"):
        DdpmTask("tiny", images, CONFIG, DdpmConfig(unet=unet(num_classes=8)))


def test_sample_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle2_edu.recipes.diffusion.GRID", 3)
    for config in (
        SIMPLE,
        DdpmConfig("cosine", timesteps=20, unet=unet(num_classes=8)),
    ):
        task = make(config)
        pictures = task.sample(task.model)
        assert pictures is not None and pictures.shape == (3, 3, 8, 8)
