import pytest
import torch
from diffusers import UnCLIPScheduler

from dalle2_edu.diffusion.schedules import (
    cosine_betas,
    half_log_snr,
    linear_betas,
    log_snr_timesteps,
    named_betas,
    respaced_betas,
    space_timesteps,
)
from dalle2_edu.errors import Dalle2EduError


def abar(betas: torch.Tensor) -> torch.Tensor:
    return torch.cumprod(1 - betas, dim=0)


def test_cosine_has_the_papers_numbers():
    betas = cosine_betas(1000)
    assert betas.dtype == torch.float64
    assert betas[0].item() == pytest.approx(4.13e-5, rel=2e-3)
    assert betas[0].sqrt() < 1 / 127.5
    assert abar(betas)[499].item() == pytest.approx(0.494, abs=1e-3)
    assert abar(betas)[-1].item() == pytest.approx(2.4e-9, rel=0.02)
    assert (betas == 0.999).sum() == 1


def test_linear_has_the_papers_numbers():
    betas = linear_betas(1000)
    assert betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert abar(betas)[499].item() == pytest.approx(0.079, abs=1e-3)
    assert abar(betas)[-1].item() == pytest.approx(4.0e-5, rel=0.02)


def test_fewer_linear_steps_add_the_same_noise_in_all():
    assert linear_betas(100)[[0, -1]].tolist() == pytest.approx([1e-3, 0.2])
    assert abar(linear_betas(4000))[-1].log().item() == pytest.approx(
        abar(linear_betas(1000))[-1].log().item(), rel=0.02
    )


@pytest.mark.parametrize("count", [25, 50, 7])
def test_even_steps_are_those_of_diffusers_unclip(count):
    scheduler = UnCLIPScheduler()
    scheduler.set_timesteps(count)
    assert space_timesteps(1000, str(count)) == scheduler.timesteps.tolist()[::-1]


def test_spacings():
    assert space_timesteps(1000, "ddim25") == list(range(0, 1000, 40))
    assert space_timesteps(1000, 25) == space_timesteps(1000, "25")
    assert space_timesteps(1000, 1000) == list(range(1000))
    assert space_timesteps(1000, "1") == [0]
    # adding the stride up falls just short of 499.5
    assert 499 in space_timesteps(1000, 21)
    assert space_timesteps(10, "2,2,1") == [0, 3, 4, 6, 7]  # 10 = 4 + 3 + 3


def test_fast27_is_glides():
    kept = space_timesteps(1000, "fast27")
    plain = space_timesteps(1000, "10,10,3,2,2")
    assert [
        sum(low <= t < low + 200 for t in plain) for low in range(0, 1000, 200)
    ] == [
        10,
        10,
        3,
        2,
        2,
    ]
    assert plain[-7:] == [400, 500, 599, 600, 799, 800, 999]
    assert kept == [*plain[:-1], 997]


@pytest.mark.parametrize(
    "spec",
    [
        "ddim300",
        "ddim1001",
        "1001",
        0,
        -5,
        "abc",
        "",
        "ddim",
        "10,,3",
        "2.5",
        "501,499",
        "ddim25,3",
    ],
)
def test_impossible_spacing_is_one_clear_line(spec):
    with pytest.raises(Dalle2EduError) as error:
        space_timesteps(1000, spec)
    assert "\n" not in str(error.value)


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(Dalle2EduError, match="linear or cosine"):
        named_betas("sigmoid", 1000)
    with pytest.raises(Dalle2EduError, match="20 steps"):
        linear_betas(10)
    with pytest.raises(Dalle2EduError, match="at least 1"):
        cosine_betas(0)


def test_respaced_betas_keep_the_marginals():
    full = abar(cosine_betas(1000))
    kept = space_timesteps(1000, "fast27")
    assert torch.allclose(
        abar(respaced_betas(full, kept)), full[kept], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("betas", "noisiest"), [(cosine_betas(1000), 995), (linear_betas(1000), 999)]
)
def test_steps_even_in_the_log_snr(betas, noisiest):
    lambdas = half_log_snr(abar(betas))
    assert torch.allclose(torch.exp(2 * lambdas), abar(betas) / (1 - abar(betas)))
    assert lambdas[noisiest] >= -5.1 and (
        noisiest == 999 or lambdas[noisiest + 1] < -5.1
    )
    kept = log_snr_timesteps(abar(betas), "logsnr10")
    assert kept == sorted(set(kept)) and (kept[0], kept[-1], len(kept)) == (
        0,
        noisiest,
        10,
    )
    even = (lambdas[noisiest] - lambdas[0]) / 9
    assert (lambdas[kept].diff() / even - 1).abs().max() < 0.25
    for count in (
        1,
        2,
        100,
        noisiest + 1,
    ):  # so many that the wishes collide: still so many different steps
        kept = log_snr_timesteps(abar(betas), f"logsnr{count}")
        assert kept == sorted(set(kept)) and len(kept) == count and kept[-1] <= noisiest
    assert kept == list(range(noisiest + 1))


@pytest.mark.parametrize(
    "spec", ["logsnr", "logsnr0", "logsnr2,3", "logsnr1001", "logsnrx"]
)
def test_impossible_log_snr_spacings_are_one_clear_line(spec):
    with pytest.raises(Dalle2EduError, match="spacing|ask for"):
        log_snr_timesteps(abar(cosine_betas(1000)), spec)
