"""Codes and words: the quantiser, the dVAE and what folds one into the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from dalle2_edu.baselines.code_prior import CodePrior, CodePriorConfig
from dalle2_edu.baselines.dvae import (
    Dvae,
    DvaeConfig,
    DvaeSchedule,
    gumbel_softmax,
    kl_to_uniform,
    logit_laplace_nll,
    squeeze,
    unsqueeze,
)
from dalle2_edu.baselines.vqvae import (
    Quantizer,
    VqDvae,
    VqDvaeConfig,
    nearest,
    perplexity,
    straight_through,
)
from dalle2_edu.errors import Dalle2EduError

TINY = DvaeConfig(vocab_size=16, hidden=4, start=4, blocks=1, groups=3, gain=1.0)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_nearest_code_is_that_of_plain_distances() -> None:
    z, codebook = torch.randn(200, 5), torch.randn(12, 5)
    assert torch.equal(nearest(z, codebook), torch.cdist(z, codebook).argmin(dim=1))


def test_straight_through_has_the_codes_value_and_the_vectors_gradient() -> None:
    z, code = torch.randn(3, requires_grad=True), torch.randn(3)
    out = straight_through(z, code)
    torch.testing.assert_close(out, code)
    out.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * code)  # as if d out / d z were 1


def test_revival_moves_dead_codes_onto_vectors_and_no_others() -> None:
    book = Quantizer(4, 2, revive=0.5).train()
    far = torch.tensor([[9.0, 9.0], [8.0, 8.0], [0.0, 0.0], [1.0, 1.0]])
    book.codebook.copy_(far)
    book.sums.copy_(far * 10)
    book.counts.fill_(10.0)
    book.counts[:2] = 0.0  # nobody chose the first two for long
    vectors = torch.randn(50, 2) * 0.1
    book.learn(vectors, nearest(vectors, book.codebook))
    revived = torch.cdist(book.codebook[:2], vectors).amin(dim=1)
    assert revived.max() < 1e-6
    assert book.codebook[2].norm() < 0.2 and book.codebook[3].norm() > 1


def test_perplexity_counts_the_codes_in_use() -> None:
    assert perplexity(torch.arange(8).repeat(3), 16).item() == pytest.approx(8)
    assert perplexity(torch.zeros(5, dtype=torch.long), 16).item() == pytest.approx(1)


def test_a_vqvae_folds_into_a_dvae_that_chooses_the_same_words(
    pictures: torch.Tensor,
) -> None:
    model = VqDvae(VqDvaeConfig(networks=TINY, dim=3)).eval()
    drawn, _, codes = model(pictures)
    dvae = model.as_dvae(softness=0.7)
    assert torch.equal(dvae.encode(pictures), codes.flatten(1))
    torch.testing.assert_close(
        dvae.decode(codes.flatten(1)), 2 * unsqueeze(drawn) - 1, rtol=0, atol=1e-5
    )
    # and it is as sure of each word as the distances say
    z = model.encoder(squeeze((pictures + 1) / 2)).movedim(1, -1).flatten(0, 2)
    by_distance = -torch.cdist(z, model.quantizer.codebook).square() / 0.7
    logits = dvae.encoder(squeeze((pictures + 1) / 2)).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(
        logits.softmax(dim=1), by_distance.softmax(dim=1), rtol=0, atol=1e-5
    )


def test_gumbel_noise_draws_words_with_their_probabilities() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])[None, :, None, None]
    noise = torch.Generator().manual_seed(0)
    soft = gumbel_softmax(logits.expand(40_000, -1, 1, 1), 0.5, noise)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(40_000, 1, 1))
    share = soft.argmax(dim=1).flatten().bincount(minlength=4) / 40_000
    # five standard errors of a share near a half
    torch.testing.assert_close(
        share, logits.flatten().softmax(dim=0), rtol=0, atol=0.0125
    )


def test_the_kl_is_that_of_two_categorical_distributions() -> None:
    logits = torch.randn(2, 7, 3, 3)
    q = Categorical(logits=logits.movedim(1, -1))
    uniform = Categorical(logits=torch.zeros(2, 3, 3, 7))
    torch.testing.assert_close(kl_to_uniform(logits), kl_divergence(q, uniform))


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.3), (1.5, 0.8)])
def test_the_logit_laplace_density_integrates_to_one(mu: float, b: float) -> None:
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    nll = logit_laplace_nll(x, torch.tensor(mu), torch.tensor(math.log(b)))
    assert torch.trapezoid((-nll).exp(), x).item() == pytest.approx(1, abs=2e-3)


def test_the_schedule_cools_and_the_kl_weight_rises() -> None:
    schedule = DvaeSchedule()
    path = [schedule.at(i / 50) for i in range(51)]
    temperatures, betas = [list(values) for values in zip(*path, strict=True)]
    assert temperatures == sorted(temperatures, reverse=True)
    assert betas == sorted(betas)
    assert path[0] == (schedule.first_temperature, 0.0)
    assert path[-1] == (schedule.last_temperature, schedule.beta)


def test_pages_and_pictures_that_do_not_fit_are_told_so() -> None:
    dvae = Dvae(TINY).eval()
    with pytest.raises(Dalle2EduError, match="multiples of 4"):
        dvae.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(
        Dalle2EduError, match="Codes are 0 to 15; these go from 3 to 16"
    ):
        dvae.decode(torch.tensor([[3, 16, 5, 5]]))


@pytest.fixture
def prior() -> CodePrior:
    torch.manual_seed(0)
    return CodePrior(CodePriorConfig(codes=11, places=6, width=16, layers=2, heads=2))


def test_a_code_is_predicted_from_those_before_it_alone(prior: CodePrior) -> None:
    codes = torch.randint(11, (2, 6))
    changed = codes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = prior(codes), prior(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_drawing_with_the_cache_is_drawing_without_it(prior: CodePrior) -> None:
    seeds = [3, 4, 5]
    page = prior.sample(seeds, temperature=0)  # the likeliest code each time
    codes = torch.zeros(3, 0, dtype=torch.long)
    for n in range(6):
        filled = torch.cat([codes, torch.zeros(3, 6 - n, dtype=torch.long)], dim=1)
        codes = torch.cat([codes, prior(filled)[:, n].argmax(dim=1)[:, None]], dim=1)
    assert torch.equal(page, codes)
    alone = prior.sample([4])
    assert torch.equal(prior.sample(seeds)[1], alone[0])  # neighbours change nothing
    given = torch.tensor([[7, 2]])
    assert (prior.sample(seeds, given=given)[:, :2] == given).all()


def test_a_prior_says_what_it_can_not_draw(prior: CodePrior) -> None:
    with pytest.raises(Dalle2EduError, match="temperature must be 0 or more"):
        prior.sample([0], temperature=-1)
    with pytest.raises(Dalle2EduError, match="Given codes are"):
        prior.sample([0], given=torch.zeros(1, 7, dtype=torch.long))
