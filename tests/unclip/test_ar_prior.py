"""The autoregressive prior: embeddings as codes, what may be looked at, and drawing one
code after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny_models
import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.baselines.token_sampling import draw_token, normal_to_uniform
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import TextEncoding
from dalle2_edu.unclip.ar_prior import (
    PAPER,
    ARPrior,
    ARPriorConfig,
)
from dalle2_edu.unclip.buckets import bucket_means, quantile_edges, to_buckets
from dalle2_edu.unclip.latents import fit_pca

RANK, BUCKETS = tiny_models.AR_PRIOR.rank, tiny_models.AR_PRIOR.buckets


def falling(n: int) -> Tensor:
    """Embeddings whose dimensions vary less and less."""
    return torch.randn(n, tiny_models.DIM) * 0.5 ** torch.arange(tiny_models.DIM) + 0.1


@pytest.fixture
def prior() -> ARPrior:
    return tiny_models.ar_prior()


def texts(n: int, real: int = 5) -> TextEncoding:
    return TextEncoding(**tiny_models.conditioning(n, real))


# --- codes ----------------------------------------------------------------------------


def test_quantile_buckets_hold_equally_many_and_decode_to_their_mean() -> None:
    values = torch.stack(
        [torch.arange(12.0).flip(0), torch.arange(12.0) ** 3], dim=1
    )  # (12, 2)
    edges = quantile_edges(values, 4)
    assert edges.tolist() == [[3, 6, 9], [27, 216, 729]]
    assert [
        torch.bincount(column).tolist() for column in to_buckets(values, edges).T
    ] == [[3, 3, 3, 3]] * 2
    assert bucket_means(values, edges)[0].tolist() == [1, 4, 7, 10]
    assert to_buckets(torch.tensor([[-99.0, 1e9]]), edges).tolist() == [
        [0, 3]
    ]  # what was never seen has a bucket too


def test_empty_buckets_are_no_nan() -> None:
    values = torch.tensor([[1.0], [1.0], [1.0], [2.0]])
    means = bucket_means(values, quantile_edges(values, 8))
    assert means.isfinite().all() and means.min() >= 1 and means.max() <= 2


def test_an_embedding_comes_back_from_its_codes_up_to_what_pca_and_buckets_lose() -> (
    None
):
    z = falling(4000)
    pca = fit_pca(z)
    prior = ARPrior(ARPriorConfig(tiny_models.DIM, rank=pca.rank_for(0.01)))
    prior.fit(pca, z, torch.randn(50))
    lost = (prior.decode(prior.encode(z)) - z).square().sum() / (
        z - z.mean(dim=0)
    ).square().sum()
    assert (
        pca.error()[prior.config.rank] < lost < 0.013
    )  # PCA's share, less than 1%, and 0.2% for the rounding
    variances = prior.project(z).var(dim=0)
    assert torch.equal(
        variances, variances.sort(descending=True).values
    )  # the rough things come first


def test_dot_products_above_the_median_are_the_upper_half_of_their_tokens(
    prior: ARPrior,
) -> None:
    dots = torch.randn(1000)
    prior.fit(fit_pca(falling(50)), falling(50), dots)
    tokens = prior.encode_dot(dots)
    half = tiny_models.AR_PRIOR.dot_buckets // 2
    assert torch.equal(tokens >= half, dots >= dots.sort().values[500])
    drawn = prior.top_dot(torch.linspace(0, 0.9999, 500))
    assert drawn.unique().tolist() == list(range(half, 2 * half))
    assert prior.no_text == 2 * half  # no dot product has it


def test_the_papers_prior_keeps_319_of_1024_dimensions() -> None:
    assert (PAPER.rank, PAPER.clip_dim, PAPER.buckets, PAPER.width, PAPER.layers) == (
        319,
        1024,
        1024,
        1664,
        24,
    )
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ARPrior(PAPER).parameters())
    assert 0.7e9 < count < 1.0e9  # Table 3 says 1B, a text encoder included


@pytest.mark.parametrize(
    "config",
    [{"rank": 0}, {"rank": 17, "clip_dim": 16}, {"buckets": 1}, {"dot_buckets": 1}],
)
def test_sizes_that_cannot_be_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(Dalle2EduError):
        ARPriorConfig(**config)


# --- the language model ---------------------------------------------------------------


def test_a_code_is_told_from_the_text_and_the_codes_before_it_alone(
    prior: ARPrior,
) -> None:
    codes, dot, given = (
        torch.randint(BUCKETS, (2, RANK - 1)),
        torch.tensor([1, 3]),
        tiny_models.conditioning(2),
    )
    logits = prior(codes, dot, **given)
    assert logits.shape == (2, RANK, BUCKETS)
    changed = codes.clone()
    changed[:, 2] = (
        codes[:, 2] + 1
    ) % BUCKETS  # the third code: a matter for the fourth and later
    moved = (prior(changed, dot, **given) - logits).abs().amax(dim=(0, 2))
    assert not moved[:3].any() and (moved[3:] > 0).all()
    assert (prior(codes, dot + 1, **given) != logits).any(dim=2).all()
    padding = {
        **given,
        "text_enc": given["text_enc"] + 9 * ~given["text_mask"][..., None],
    }
    assert torch.equal(prior(codes, dot, **padding), logits)


@torch.no_grad()
def test_the_cache_changes_nothing(prior: ARPrior) -> None:
    codes, dot, given = (
        torch.randint(BUCKETS, (2, RANK - 1)),
        torch.tensor([1, 3]),
        tiny_models.conditioning(2),
    )
    logits, past = prior.start(dot, **given)
    cached = [logits]
    for n in range(1, RANK):
        cached.append(prior.step(codes[:, n - 1], n, past, given["text_mask"]))
    torch.testing.assert_close(
        torch.stack(cached, dim=1), prior(codes, dot, **given), rtol=0, atol=1e-5
    )


# --- sampling -------------------------------------------------------------------------


def test_codes_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().expand(1000, 4)
    luck = normal_to_uniform(
        torch.distributions.Normal(0, 1).icdf((torch.arange(1000) + 0.5) / 1000)
    )
    torch.testing.assert_close(
        luck, (torch.arange(1000) + 0.5) / 1000, rtol=0, atol=1e-5
    )
    assert torch.bincount(draw_token(logits, luck)).tolist() == [500, 250, 125, 125]
    colder = torch.bincount(draw_token(logits, luck, temperature=0.5), minlength=4)
    assert colder[0] > 700 and colder[2] > 0
    assert not draw_token(logits, luck, temperature=0).any()


def sample(
    prior: ARPrior, text: TextEncoding, seeds: Sequence[int], **settings: float
) -> Tensor:
    null = TextEncoding(
        *(each[:1].expand_as(each) * 0 for each in (text.text_emb, text.text_enc)),
        text.text_mask,
    )
    return prior.sample(text, null, SeededNoise(seeds), **settings)


def test_a_sample_depends_on_its_own_text_and_seed_alone(prior: ARPrior) -> None:
    text = texts(3)
    together = sample(prior, text, [5, 6, 7])
    assert (
        together.shape == (3, RANK) and together.max() < BUCKETS and together.min() >= 0
    )
    second = TextEncoding(text.text_emb[1:2], text.text_enc[1:2], text.text_mask[1:2])
    assert torch.equal(sample(prior, second, [6]), together[1:2])
    assert not torch.equal(sample(prior, second, [5]), together[1:2])
    assert not torch.equal(sample(prior, texts(3), [5, 6, 7]), together)


def test_temperature_and_guidance_have_their_say(prior: ARPrior) -> None:
    text = texts(2)
    plain = sample(prior, text, [1, 2])
    assert torch.equal(
        sample(prior, text, [1, 2], temperature=0),
        sample(prior, text, [1, 2], temperature=1e-4),
    )
    assert not torch.equal(sample(prior, text, [1, 2], guidance_scale=20.0), plain)
    assert torch.equal(
        sample(prior, text, [1, 2], guidance_scale=1 + 1e-9), plain
    )  # the doubled batch, no guidance
    for wrong in ({"temperature": -1.0}, {"above": 1.0}):
        with pytest.raises(Dalle2EduError):
            sample(prior, text, [1, 2], **wrong)


@torch.no_grad()
def test_the_greedy_sample_is_the_uncached_networks_own_choice(prior: ARPrior) -> None:
    text = texts(2)
    codes = sample(prior, text, [1, 2], temperature=0)
    dot = prior.top_dot(normal_to_uniform(SeededNoise([1, 2])((2, RANK + 1)))[:, 0])
    assert torch.equal(
        prior(codes[:, :-1], dot, **text.as_conditioning()).argmax(dim=2), codes
    )


def test_axes_and_buckets_travel_with_the_weights(
    prior: ARPrior, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    zoo.save("emoji", "ar_prior", prior, zoo.Card("emoji-ar-prior", "smoke", "none"))
    loaded = zoo.load("emoji", "ar_prior")
    codes = torch.randint(BUCKETS, (3, RANK))
    torch.testing.assert_close(
        loaded.decode(codes), prior.decode(codes), rtol=0, atol=2e-3
    )  # half precision
    torch.testing.assert_close(loaded.dot_edges, prior.dot_edges, rtol=0, atol=2e-3)
