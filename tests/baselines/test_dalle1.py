"""DALL·E 1 against what it is defined by: figure 11's masks, the cache against no cache,
the loss's weights, the paper's size.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.baselines import attention_masks
from dalle2_edu.baselines.dalle1 import (
    PAPER,
    Dalle1,
    Dalle1Config,
    Dalle1Transformer,
    dalle1_loss,
)
from dalle2_edu.baselines.dvae import Dvae, DvaeConfig
from dalle2_edu.baselines.token_sampling import draw_token, keep_top_k
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.drawing.run import SeededNoise
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import runs

TINY = Dalle1Config(vocab_size=50, context_length=6, words=16, side=4, width=16)
SMALL_DVAE = DvaeConfig(vocab_size=16, hidden=4, start=4, blocks=1, groups=3)


def tokens_and_codes(config: Dalle1Config, n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    length, page = config.context_length, config.page
    tokens = torch.randint(1, config.vocab_size, (n, length), generator=generator)
    tokens[0, 3:] = 0  # a short caption
    return tokens, torch.randint(config.words, (n, page), generator=generator)


def model_of(config: Dalle1Config = TINY) -> Dalle1Transformer:
    torch.manual_seed(0)
    model = Dalle1Transformer(config)
    for weight in model.parameters():  # large enough for tokens to matter
        weight.data.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


@pytest.fixture
def pipeline() -> Dalle1:
    tokenizer = default_tokenizer()
    config = replace(
        TINY,
        side=8,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
    )
    return Dalle1(model_of(config), Dvae(SMALL_DVAE).eval(), tokenizer)


# --- masks ----------------------------------------------------------------------------


def test_row_and_column_masks_are_those_of_figure_11() -> None:
    """A 4 x 4 page: five tokens for a row mask, itself counted; the column above it."""
    row = attention_masks.image_mask("row", 4)
    column = attention_masks.image_mask("column", 4)
    for i, j in product(range(16), repeat=2):
        assert row[i, j] == (j in range(i - 4, i + 1))
        same_column = i % 4 == j % 4
        assert column[i, j] == (same_column and j // 4 <= i // 4)


def test_conv_mask_is_the_causal_half_of_a_convolution() -> None:
    """Inside of the page: what a 3 x 3 convolution with its later half zeroed reads."""
    kernel = torch.ones(1, 1, 3, 3)
    kernel[..., 2, :] = 0
    kernel[..., 1, 2] = 0
    mask = attention_masks.image_mask("conv", 5)
    for i in range(25):
        if i % 5 in (0, 4):
            continue  # the margins wrap around
        # the gradient of one answer says which places it read
        page = torch.zeros(1, 1, 5, 5, requires_grad=True)
        F.conv2d(page, kernel, padding=1).flatten()[i].backward()
        assert page.grad is not None
        assert torch.equal(mask[i], page.grad.flatten() > 0)


def test_layers_take_turns_as_in_the_paper() -> None:
    kinds = attention_masks.layer_kinds(64)
    assert kinds[:8] == ["row", "column", "row", "row"] * 2
    assert kinds[-1] == "conv" and kinds.count("column") == 16


# --- the transformer ------------------------------------------------------------------


def test_the_paper_s_sizes_give_its_twelve_billion() -> None:
    with torch.device("meta"):
        model = Dalle1Transformer(replace(PAPER, side=2))  # no 1,280 x 1,280 masks
    count = sum(weight.numel() for weight in model.parameters())
    assert 11.9e9 < count < 12.3e9


def test_no_answer_knows_what_comes_after_it() -> None:
    model = model_of()
    tokens, codes = tokens_and_codes(TINY)
    text, image = model(tokens, codes[:, :-1])
    other = codes.clone()
    other[:, 7] = (codes[:, 7] + 1) % TINY.words
    text_2, image_2 = model(tokens, other[:, :-1])
    assert torch.equal(text, text_2)
    assert torch.equal(image[:, :8], image_2[:, :8])
    assert not torch.allclose(image[:, 8], image_2[:, 8])
    tokens[:, -1] = 1
    assert torch.equal(text[:, :-1], model(tokens, codes[:, :-1])[0][:, :-1])


def test_with_the_cache_come_the_same_logits() -> None:
    model = model_of()
    tokens, codes = tokens_and_codes(TINY)
    _, expected = model(tokens, codes[:, :-1])
    for given in (0, 5):
        logits, past = model.start(tokens, codes[:, :given])
        for n in range(given, TINY.page):
            torch.testing.assert_close(logits, expected[:, n], atol=1e-5, rtol=0)
            if n + 1 < TINY.page:
                logits = model.step(codes[:, n], n + 1, past)


def test_each_place_has_its_own_padding() -> None:
    model = model_of()
    tokens, codes = tokens_and_codes(TINY)
    filled = model.fill_padding(tokens)
    assert filled[0].tolist() == [*tokens[0, :3].tolist(), 53, 54, 55]
    assert torch.equal(filled[1:], tokens[1:])
    model(tokens, codes[:, :-1])[1].sum().backward()
    gradient = model.text.weight.grad
    assert gradient is not None
    used = gradient[TINY.vocab_size :].abs().sum(dim=1) > 0
    assert used.tolist() == [False] * 3 + [True] * 3


def test_loss_is_one_eighth_text_and_seven_eighths_picture() -> None:
    tokens, codes = tokens_and_codes(TINY)
    text_logits = torch.zeros(3, 5, 50)  # every token alike: ln 50 each
    image_logits = torch.zeros(3, 16, 16)
    loss, text, image = dalle1_loss(text_logits, image_logits, tokens, codes)
    expected = torch.tensor([50.0, 16.0]).log()
    torch.testing.assert_close(torch.stack([text, image]), expected)
    torch.testing.assert_close(loss, expected[0] / 8 + 7 * expected[1] / 8)
    # what is said of padding does not count
    text_logits[0, 2:] = torch.randn(3, 50)
    again = dalle1_loss(text_logits, image_logits, tokens, codes)[0]
    torch.testing.assert_close(again, loss)


# --- drawing --------------------------------------------------------------------------


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    for temperature in (0.5, 1.0):
        drawn = draw_token(logits.expand(20_000, -1), uniform, temperature)
        share = drawn.bincount(minlength=4) / 20_000
        wanted = (logits[0] / temperature).softmax(0)
        torch.testing.assert_close(share, wanted, atol=1e-3, rtol=0)
    top = draw_token(logits.expand(20_000, -1), uniform, top_k=2)
    assert set(top.tolist()) == {0, 1}
    assert draw_token(logits, torch.tensor([0.99]), temperature=0).item() == 1
    last = draw_token(logits, torch.tensor([1.0]), top_k=2)  # above every sum
    assert last.item() == 1
    assert keep_top_k(logits, 9).isfinite().all()


def test_a_picture_is_the_same_alone_and_beside_others(pipeline: Dalle1) -> None:
    prompts = ["a red circle", "一个红色的圆形"]
    both = pipeline.text_to_image(prompts, seed=[3, 4], progress=False)
    assert both.shape == (2, 3, 32, 32) and both.abs().max() <= 1
    alone = pipeline.text_to_image(prompts[1:], seed=4, progress=False)
    torch.testing.assert_close(both[1:], alone)


def test_completion_keeps_what_was_given(pipeline: Dalle1) -> None:
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    codes = pipeline.read(picture)
    done = pipeline.complete(["a star"] * 2, picture, seed=[0, 1], progress=False)
    assert done.shape == (2, 3, 32, 32)
    whole = pipeline.complete(["a star"], picture, keep=1, progress=False)
    torch.testing.assert_close(whole, pipeline.dvae.decode(codes))
    nothing = pipeline.complete(["a star"], picture, keep=0, seed=1, progress=False)
    from_words = pipeline.text_to_image(["a star"], seed=1, progress=False)
    torch.testing.assert_close(nothing, from_words)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"best_of": 0}, "best_of must be 1 or more"),
        ({"best_of": 2}, "needs a CLIP"),
        ({"seed": [1, 2]}, "1 prompts need one seed"),
    ],
)
def test_wrong_settings_are_answered_in_one_line(
    pipeline: Dalle1, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(Dalle2EduError, match=told):
        pipeline.text_to_image(["a star"], progress=False, **settings)  # type: ignore[arg-type]


def test_wrong_completions_are_answered_in_one_line(pipeline: Dalle1) -> None:
    pictures = torch.zeros(3, 3, 32, 32)
    with pytest.raises(Dalle2EduError, match="one picture, or one for each"):
        pipeline.complete(["a star"] * 2, pictures, progress=False)
    with pytest.raises(Dalle2EduError, match="share of the picture"):
        pipeline.complete(["a star"], pictures[:1], keep=8, progress=False)


# --- the recipe -----------------------------------------------------------------------


def test_trained_and_published_it_draws(tmp_path: Path) -> None:
    """From a recipe's three steps to a picture; with another dVAE it refuses."""
    card = zoo.Card(recipe="dvae", tier="smoke", data_licence="rendered")
    with zoo.at(tmp_path / "zoo"):
        zoo.save("shared", "dvae", Dvae(SMALL_DVAE), card)
        runs.run("shapes-dalle1", "smoke", tmp_path / "run", progress=False)
        runs.publish(tmp_path / "run")
        drawn = Dalle1.from_zoo("shapes").text_to_image(["a star"], progress=False)
        assert drawn.shape == (1, 3, 32, 32)
        with pytest.raises(Dalle2EduError, match="known: shapes"):
            Dalle1.from_zoo("emoji")
        zoo.save("shared", "dvae", Dvae(SMALL_DVAE), card)
        with pytest.raises(Dalle2EduError, match="codes of another dVAE"):
            Dalle1.from_zoo("shapes")


def test_pairs_are_learned_by_heart() -> None:
    """Two captions, two pages of codes: after some steps it draws each its own."""
    tokens, codes = tokens_and_codes(TINY, n=2)
    torch.manual_seed(0)
    model = Dalle1Transformer(TINY)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        text, image = model(tokens, codes[:, :-1])
        loss, _, _ = dalle1_loss(text, image, tokens, codes)
        adam.zero_grad()
        loss.backward()
        adam.step()
    drawn = model.sample(tokens, SeededNoise([0, 1]), temperature=0)
    assert torch.equal(drawn, codes)
