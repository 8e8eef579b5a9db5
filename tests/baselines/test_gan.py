"""The GAN's losses against the formulas of their papers, its game against closed forms,
and what a reader may ask of it.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dalle2_edu import zoo
from dalle2_edu.baselines import gan
from dalle2_edu.baselines.gan import (
    Gan,
    GanConfig,
    Objective,
    TextGan,
    TextGanConfig,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    joined,
    losses,
    play,
    r1_penalty,
)
from dalle2_edu.errors import Dalle2EduError

TINY = GanConfig(image_size=8, latent=4, channels=4)
TEXT = TextGanConfig(gan=TINY, width=8, layers=1, heads=2)


def test_minimax_is_equation_1_by_bce() -> None:
    """PyTorch's cross-entropy is the other implementation."""
    on_real, on_fake = torch.randn(2, 9, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    ours = discriminator_loss("minimax", on_real, on_fake)
    theirs = bce(on_real, torch.ones_like(on_real))
    theirs = theirs + bce(on_fake, torch.zeros_like(on_fake))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        generator_loss("minimax", on_fake),
        (1 - torch.sigmoid(on_fake)).log().mean(),
    )
    torch.testing.assert_close(
        generator_loss("non_saturating", on_fake), -torch.sigmoid(on_fake).log().mean()
    )


def test_hinge_and_wasserstein_by_hand() -> None:
    on_real, on_fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss("hinge", on_real, on_fake) == 0.25 + 1.0
    assert discriminator_loss("wasserstein", on_real, on_fake) == -1.0 - 1.25
    assert generator_loss("hinge", on_fake) == generator_loss("wasserstein", on_fake)
    assert generator_loss("hinge", on_fake) == 1.0


def test_penalties_of_a_plane_are_its_slope() -> None:
    """s(x) = w x has the slope |w| everywhere: R1 is |w|^2 / 2, GP is (|w| - 1)^2."""
    w = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert r1_penalty(x @ w, x).item() == pytest.approx(12.5)
    penalty = gradient_penalty(x @ w, x)
    assert penalty.item() == pytest.approx(16)
    (push,) = torch.autograd.grad(penalty, w)  # it must reach D's weights
    torch.testing.assert_close(push, 2 * 4 * w.detach() / 5)


@pytest.mark.parametrize("kind", ["minimax", "non_saturating", "hinge", "wasserstein"])
def test_one_backward_pass_moves_each_network_on_its_own_loss(kind: gan.Kind) -> None:
    """`joined` against the textbook way: two losses, two backward passes."""
    torch.manual_seed(0)
    model = Gan(TINY)
    model.generator.double(), model.discriminator.double()
    real, z = torch.randn(5, 3, 8, 8).double(), torch.randn(5, 4).double()
    objective = Objective(kind, r1=0.3, gp=0.2)
    asked = real.clone().requires_grad_()
    seen = model(asked, z, torch.full((5, 1, 1, 1), 0.4).double())
    joined(*losses(seen, asked, objective), seen).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    fake = model.generator(z)
    generator_loss(kind, model.discriminator(fake)).backward()
    of_g = {name: p.grad.clone() for name, p in model.generator.named_parameters()}
    model.zero_grad()
    asked = real.clone().requires_grad_()
    judged = model.discriminator(asked)
    of_d = discriminator_loss(kind, judged, model.discriminator(fake.detach()))
    points = (0.4 * real + 0.6 * fake.detach()).requires_grad_()
    of_d = of_d + 0.3 * r1_penalty(judged, asked)
    of_d = of_d + 0.2 * gradient_penalty(model.discriminator(points), points)
    of_d.backward()
    for name, gradient in of_g.items():
        torch.testing.assert_close(ours[f"generator.{name}"], gradient)
    for name, p in model.discriminator.named_parameters():
        torch.testing.assert_close(ours[f"discriminator.{name}"], p.grad)


def test_spectral_norm_bounds_every_layers_slope() -> None:
    model = Gan(GanConfig(image_size=8, latent=4, channels=4, spectral_norm=True))
    for _ in range(30):  # the largest singular value is found step by step
        model.discriminator(torch.randn(2, 3, 8, 8))
    model.eval()
    layers = [m for m in model.discriminator.modules() if isinstance(m, nn.Conv2d)]
    for layer in layers:
        matrix = layer.weight.flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.02)


def test_sizes_and_seeds() -> None:
    model = Gan(GanConfig(image_size=16, latent=4, channels=4)).eval()
    pictures = model.sample([5, 6, 7])
    assert pictures.shape == (3, 3, 16, 16) and pictures.abs().max() <= 1
    torch.testing.assert_close(model.sample([6])[0], pictures[1])
    with pytest.raises(Dalle2EduError, match="image_size is 20"):
        GanConfig(image_size=20)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"kind": "softmax"}, "no GAN loss"), ({"r1": -1.0}, "0 or more")],
)
def test_a_wrong_objective_is_refused(options: dict, said: str) -> None:
    with pytest.raises(Dalle2EduError, match=said):
        Objective(**options)


# --- told what to draw ----------------------------------------------------------------


def test_wrong_captions_are_another_pictures() -> None:
    """A right and a wrong caption with one picture; padding says nothing."""
    torch.manual_seed(0)
    model = TextGan(TEXT).eval()
    real, z = torch.randn(3, 3, 8, 8), torch.randn(3, 4)
    tokens = torch.tensor([[1, 5, 2, 0], [1, 6, 2, 0], [1, 7, 8, 2]])
    tokens = F.pad(tokens, (0, TEXT.context_length - 4))
    seen = model(real, z, tokens)
    told = model.reader(tokens)
    judge = model.discriminator
    wrong = judge.match(judge.features(real), told[[2, 0, 1]])
    torch.testing.assert_close(seen.on_wrong, wrong)
    of_d, _ = losses(seen, real, Objective())
    expected = F.softplus(-seen.on_real).mean()
    expected = expected + F.softplus(seen.on_fake).mean() / 2
    torch.testing.assert_close(of_d, expected + F.softplus(wrong).mean() / 2)


def test_a_prompt_becomes_a_picture_and_a_wrong_one_a_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = zoo.Card(recipe="shapes-text-gan", tier="smoke", data_licence="MIT")
    with zoo.at(tmp_path):
        zoo.save("shapes", "text_gan", TextGan(TEXT).eval(), card)
        model = TextGan.from_zoo("shapes")
        with pytest.raises(Dalle2EduError, match="known: shapes"):
            TextGan.from_zoo("cats")
        with pytest.raises(Dalle2EduError, match="device"):
            TextGan.from_zoo("shapes", device="abacus")
    pictures = model.text_to_image(["a red circle", "一个红色的圆形"], seed=3)
    assert pictures.shape == (2, 3, 8, 8) and pictures.abs().max() <= 1
    torch.testing.assert_close(
        model.text_to_image(["一个红色的圆形"], seed=[3])[0], pictures[1]
    )
    assert not torch.equal(
        model.text_to_image(["a red circle"], seed=4)[0], pictures[0]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for prompts, said in (
            (["  "], "empty"),
            ("a red circle", "list"),
            ([], "empty"),
        ):
            with pytest.raises(Dalle2EduError, match=said):
                model.text_to_image(prompts)
    with pytest.raises(Dalle2EduError, match="seed"):
        model.text_to_image(["a red circle"], seed=[1, 2])


def test_play_cuts_the_generator_off() -> None:
    generator, judge = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    seen = play(generator, judge, torch.randn(4, 3), torch.randn(4, 2))
    seen.on_fake.sum().backward()
    assert generator.weight.grad is None and seen.shown.grad is not None
    assert math.isfinite(float(seen.on_real.sum().detach()))
