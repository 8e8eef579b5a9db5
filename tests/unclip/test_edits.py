"""What unCLIP does with a picture of one's own, with tiny random networks: what stays,
what moves, what is refused.
"""

from __future__ import annotations

import warnings
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image
from torch import Tensor

from dalle2_edu.diffusion.analytic import AnalyticDiffusion
from dalle2_edu.drawing.grids import to_pil
from dalle2_edu.drawing.pictures import as_mask
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.edits import interpolate, text_diff, variations
from dalle2_edu.unclip.inpainting import inpaint
from dalle2_edu.unclip.latents import Latent, slerp
from dalle2_edu.unclip.pipeline import UnCLIP, best_places

FEW: dict[str, Any] = {"decoder_steps": 4, "upsampler_steps": 2, "progress": False}
QUIET: dict[str, Any] = {"decoder_steps": 4, "progress": False}
SAME = 1e-3  # as in test_pipeline


@pytest.fixture(scope="module")
def unclip() -> UnCLIP:
    """Its decoder says a tenth of what a random network says: as gentle as a trained
    one, so DDIM can turn back.
    """
    torch.manual_seed(0)
    pipeline = tiny_models.pipeline()
    with torch.no_grad():
        pipeline.decoder.unet.head.weight.mul_(0.1)
    return pipeline


@pytest.fixture
def picture() -> Tensor:
    return torch.nn.functional.interpolate(
        torch.rand(1, 3, 8, 8) * 1.6 - 0.8, (128, 128), mode="bicubic"
    ).clamp(-1, 1)


def furthest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * torch.log10(((a - b) / 2).square().mean()).item()


# --- invert and decode ----------------------------------------------------------------


def test_the_inverted_latent_gives_the_picture_back_the_better_the_more_steps(
    unclip: UnCLIP, picture: Tensor
) -> None:
    small = torch.nn.functional.avg_pool2d(picture, 4)
    quality = []
    for steps in (5, 20, 80):
        latent = unclip.invert(picture, decoder_steps=steps, progress=False)
        back = unclip.decode_stages(latent, **{**FEW, "decoder_steps": steps})[0]
        quality.append(psnr(back, small))
    assert quality == sorted(quality)
    assert quality[-1] > 30
    assert torch.allclose(latent.z_i, unclip.embed(picture))


def test_decode_takes_the_seed_and_the_noise_that_it_is_given(unclip: UnCLIP) -> None:
    z = torch.randn(2, tiny_models.DIM)
    one = unclip.decode(Latent(z, unclip.draw_noise([3, 4])), seed=[3, 4], **FEW)
    other = unclip.decode(Latent(z, unclip.draw_noise([3, 5])), seed=[3, 5], **FEW)
    assert one.shape == (2, 3, 128, 128)
    assert torch.equal(one[0], other[0]) and furthest(one[1], other[1]) > 0.01
    latent = Latent(z, unclip.draw_noise([3, 4]))
    assert torch.equal(unclip.decode(latent, seed=3, **FEW), one)  # picture i: seed + i


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z, x: Latent(z, x[:1]), "noise of shape"),
        (lambda z, x: Latent(z[:, 1:], x), "embeddings"),
        (lambda z, x: Latent(z.half(), x), "torch.float16"),
        (lambda z, x: Latent(z, x.double()), "torch.float64"),
        (lambda z, x: Latent(z * float("nan"), x), "not finite"),
    ],
)
def test_a_latent_that_cannot_be_painted_is_refused(
    unclip: UnCLIP, change: Any, said: str
) -> None:
    z, x = torch.randn(2, tiny_models.DIM), torch.randn(2, 3, 32, 32)
    with pytest.raises(Dalle2EduError, match=said):
        unclip.decode(change(z, x), **FEW)


def test_decode_wants_a_seed_for_each_latent(unclip: UnCLIP) -> None:
    latent = Latent(torch.randn(2, tiny_models.DIM), unclip.draw_noise([0, 1]))
    for seed, said in (
        ([1, 2, 3], "2 latents"),
        (None, "A seed is"),
        (1.5, "A seed is"),
    ):
        with pytest.raises(Dalle2EduError, match=said):
            unclip.decode(latent, seed=seed, **FEW)


# --- variations, blends, text diffs ---------------------------------------------------


def inverted(unclip: UnCLIP, picture: Tensor) -> Latent:
    return unclip.invert(picture, decoder_steps=4, progress=False)


def test_variations_differ_by_eta_and_seed_and_share_the_meaning(
    unclip: UnCLIP, picture: Tensor
) -> None:
    latent = inverted(unclip, picture)
    latents = variations(latent, n=3)
    assert torch.equal(latents.z_i, latent.z_i.expand(3, -1))
    varied = unclip.decode(latents, eta=1.0, seed=5, **FEW)
    assert furthest(varied[0], varied[1]) > 0.1
    alone = unclip.decode(latent, eta=1.0, seed=6, **FEW)
    assert furthest(alone, varied[1:2]) < SAME  # picture i has the seed 5 + i
    still = unclip.decode_stages(latents, eta=0.0, **FEW)[0]
    assert (
        furthest(still, unclip.decode_stages(latent, **FEW)[0].expand_as(still)) < SAME
    )


def test_a_blend_ends_at_both_pictures_and_goes_along_the_arc(
    unclip: UnCLIP, picture: Tensor
) -> None:
    ends = [inverted(unclip, end) for end in (picture, -picture)]
    blend = interpolate(ends[0], ends[1], steps=3)
    for place, end in ((0, ends[0]), (2, ends[1])):
        assert furthest(blend.x_T[place], end.x_T[0]) < SAME
        assert furthest(blend.z_i[place], end.z_i[0]) < SAME
    middle = slerp(ends[0].z_i[0], ends[1].z_i[0], 0.5)
    assert furthest(blend.z_i[1], middle) < SAME
    pictures = unclip.decode(blend, seed=[0, 0, 0], **FEW)
    assert furthest(pictures[2], unclip.decode(ends[1], **FEW)) < SAME


def test_fixed_noise_is_one_noise_for_the_whole_blend(
    unclip: UnCLIP, picture: Tensor
) -> None:
    ends = [inverted(unclip, end) for end in (picture, -picture)]
    x_T = unclip.draw_noise([7])
    blend = interpolate(ends[0], ends[1], steps=3, x_T=x_T)
    assert torch.equal(blend.x_T, x_T.expand(3, -1, -1, -1))
    assert furthest(blend.z_i[0], blend.z_i[2]) > 0.01


def test_two_equal_pictures_blend_into_themselves_with_a_warning(
    unclip: UnCLIP, picture: Tensor
) -> None:
    latent = inverted(unclip, picture)
    with pytest.warns(UserWarning, match="same"):
        blend = interpolate(latent, latent, steps=3)
    assert furthest(blend.z_i, latent.z_i.expand(3, -1)) < SAME
    assert furthest(blend.x_T, latent.x_T.expand(3, -1, -1, -1)) < SAME


def test_a_text_diff_turns_the_meaning_towards_the_words_and_keeps_the_noise(
    unclip: UnCLIP, picture: Tensor
) -> None:
    latent = inverted(unclip, picture)
    direction = unclip.words_direction("red heart", "blue heart")
    turned = text_diff(latent, direction, steps=3, max_theta=0.5)
    assert furthest(turned.z_i[0], latent.z_i[0]) < SAME
    assert torch.equal(turned.x_T, latent.x_T.expand(3, -1, -1, -1))
    near = turned.z_i @ direction[0]
    assert near[0] < near[1] < near[2] < 1
    assert furthest(turned.z_i[2], slerp(latent.z_i[0], direction[0], 0.5)) < SAME
    bare = unclip.words_direction(" ", "blue heart")
    assert furthest(bare, unclip.encode_text(["blue heart"]).text_emb) < 1e-6


ONE = Latent(torch.randn(1, tiny_models.DIM), torch.randn(1, 3, 32, 32))
TWO = Latent(torch.randn(2, tiny_models.DIM), torch.randn(2, 3, 32, 32))
DIRECTION = torch.randn(1, tiny_models.DIM)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: variations(ONE, n=0), "n must be 1"),
        (lambda: variations(TWO), "one picture"),
        (
            lambda: interpolate(ONE, Latent(ONE.z_i, -ONE.x_T), steps=1),
            "steps must be 2",
        ),
        (lambda: interpolate(ONE, TWO), "one picture"),
        (lambda: text_diff(ONE, DIRECTION, max_theta=1.1), "max_theta"),
        (lambda: text_diff(ONE, DIRECTION, max_theta=0), "max_theta"),
        (lambda: text_diff(ONE, DIRECTION, steps=1), "steps must be 2"),
        (lambda: text_diff(TWO, DIRECTION), "one picture"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused_in_one_line(
    call: Any, said: str
) -> None:
    with pytest.raises(Dalle2EduError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda u, x: u.decode(u.invert(x, **QUIET), eta=1.5, **FEW), "eta"),
        (lambda u, x: u.invert(x * 3), "in \\[-1, 1\\]"),
        (lambda u, x: u.invert(x * float("nan")), "in \\[-1, 1\\]"),
        (lambda u, x: u.invert(x[0, 0]), "tensor \\(3, H, W\\)"),
        (lambda u, x: u.invert(x, decoder_steps=0), "decoder_steps must be"),
        (lambda u, x: u.words_direction("a", "  "), "target is empty"),
        (lambda u, x: u.words_direction("red heart", "red heart"), "the same to CLIP"),
        (
            lambda u, x: inpaint(u, x, torch.zeros(128, 128), "a cat", progress=False),
            "black everywhere",
        ),
        (
            lambda u, x: inpaint(u, x, torch.ones(64, 128), "a cat", progress=False),
            "128 x 64",
        ),
        (
            lambda u, x: inpaint(u, x, torch.ones(128, 128), " ", progress=False),
            "empty",
        ),
        (
            lambda u, x: inpaint(
                u, x, torch.ones(128, 128), "a cat", n=0, progress=False
            ),
            "n must be 1",
        ),
        (
            lambda u, x: u.text_to_image(["a cat"], best_of=0, progress=False),
            "best_of must be 1",
        ),
        (
            lambda u, x: u.analytic_prior(torch.zeros(2, tiny_models.DIM), ["a cat"]),
            "2 and 1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    unclip: UnCLIP, picture: Tensor, call: Any, said: str
) -> None:
    with pytest.raises(Dalle2EduError, match=said) as caught:
        call(unclip, picture)
    assert "\n" not in str(caught.value)


# --- inpainting -----------------------------------------------------------------------


def paint(unclip: UnCLIP, image: Any, mask: Any, **settings: Any) -> Tensor:
    few = {**FEW, "prior_steps": 2, "decoder_steps": 7, "resamples": 2}
    return inpaint(unclip, image, mask, "a cat", **few, **settings)


def test_inpainting_leaves_every_other_pixel_and_uses_each_seed(
    unclip: UnCLIP, picture: Tensor
) -> None:
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[30:77, 41:90] = True  # on no boundary of the small pictures' pixels
    painted = paint(unclip, picture, mask, n=2, seed=3)
    assert painted.shape == (2, 3, 128, 128)
    assert torch.equal(painted[:, :, ~mask], picture.expand(2, -1, -1, -1)[:, :, ~mask])
    assert furthest(painted[0], painted[1]) > 0.01
    assert furthest(paint(unclip, picture, mask, seed=4), painted[1:]) < SAME
    # What is under the mask has no say.
    erased = torch.where(mask, torch.zeros_like(picture), picture)
    assert torch.equal(
        paint(unclip, erased, mask, seed=3), paint(unclip, picture, mask, seed=3)
    )


def test_an_all_white_mask_keeps_nothing_of_the_picture(
    unclip: UnCLIP, picture: Tensor
) -> None:
    white = torch.ones(128, 128, dtype=torch.bool)
    assert torch.equal(paint(unclip, picture, white), paint(unclip, -picture, white))


def test_bytes_of_a_file_survive_inpainting(unclip: UnCLIP, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    mask = Image.new("L", (256, 256))  # of another size, but the same proportions
    mask.paste(255, (100, 100, 180, 160))
    back = torch.tensor(
        list(to_pil(paint(unclip, tmp_path / "noise.png", mask)[0]).getdata())
    ).reshape(128, 128, 3)
    keep = ~as_mask(mask, 128)[0, 0]
    assert torch.equal(back[keep], torch.from_numpy(pixels).long()[keep])
    assert keep.float().mean() == pytest.approx(1 - 40 * 30 / 128**2)


# --- reranking and the prior's variance -----------------------------------------------


def test_best_of_keeps_the_picture_that_clip_finds_nearest(unclip: UnCLIP) -> None:
    steps = {"prior_steps": 2, **FEW}
    best = unclip.stages(["a cat", "火箭"], seed=[7, 20], best_of=3, **steps)
    for place, (prompt, first) in enumerate((("a cat", 7), ("火箭", 20))):
        tries = unclip.stages([prompt] * 3, seed=[first, first + 1, first + 2], **steps)
        with torch.no_grad():
            scores = unclip.clip_scores(tries.images, tries.text_emb)
        winner = int(scores.argmax())
        assert best.seeds[place] == first + winner
        assert furthest(best.images[place], tries.images[winner]) < SAME
        assert best.prompts[place] == prompt


def test_best_places_by_hand() -> None:
    assert best_places(torch.tensor([0.1, 0.9, 0.2, 0.5, 0.4, 0.3]), 3) == [1, 3]


def test_the_analytic_variance_is_an_option_of_the_priors_sampler(
    unclip: UnCLIP,
) -> None:
    embeddings = torch.randn(6, tiny_models.DIM) * 0.1 + 0.2
    stage = unclip.analytic_prior(embeddings, ["a cat", "火箭"] * 3, prior_steps=3)
    process = stage.process
    assert isinstance(process, AnalyticDiffusion) and process.num_timesteps == 3
    assert (process.analytic_variance >= process.posterior_variance - 1e-12).all()
    fixed = unclip.stages(["a cat"], prior_steps=3, **FEW)
    other = copy(unclip)
    other.prior_stage = stage
    best = other.stages(["a cat"], **FEW)
    assert furthest(fixed.candidates, best.candidates) > 1e-4


def test_an_embedding_far_from_clips_length_is_told_of(unclip: UnCLIP) -> None:
    z_i = torch.nn.functional.normalize(torch.randn(1, tiny_models.DIM), dim=1)
    noise = unclip.draw_noise([0])
    with pytest.warns(UserWarning, match="10.0 long"):
        unclip.decode(Latent(10 * z_i, noise), **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unclip.decode(Latent(z_i, noise), **FEW)


def test_the_words_of_an_edit_are_read_as_a_prompt(unclip: UnCLIP) -> None:
    read = unclip.words_direction("❤", "一隻黑貓")
    assert torch.equal(read, unclip.words_direction("red heart", "一只黑猫"))
