"""What unCLIP does with a picture of one's own, with tiny random networks: what stays, what
moves, what is refused.
"""

from __future__ import annotations

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
from dalle2_edu.unclip.edits import words_direction
from dalle2_edu.unclip.latents import slerp
from dalle2_edu.unclip.pipeline import UnCLIP, best_places

FEW: dict[str, Any] = {"decoder_steps": 4, "upsampler_steps": 2, "progress": False}
SAME = 1e-3  # as in test_pipeline


@pytest.fixture(scope="module")
def unclip() -> UnCLIP:
    """Its decoder says a tenth of what a random network says: as gentle as a trained one, so
    DDIM can turn back.
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


# --- invert and decode ------------------------------------------------------------------------


def test_the_inverted_latent_gives_the_picture_back_the_better_the_more_steps(
    unclip: UnCLIP, picture: Tensor
) -> None:
    small = torch.nn.functional.avg_pool2d(picture, 4)
    quality = []
    for steps in (5, 20, 80):
        latent = unclip.invert(picture, decoder_steps=steps, progress=False)
        settings = {**FEW, "decoder_steps": steps}
        back = unclip.decode(latent.z_i, latent.x_T, **settings, return_stages=True).pictures[0]
        quality.append(psnr(back, small))
    assert quality == sorted(quality)
    assert quality[-1] > 30
    assert torch.allclose(latent.z_i, unclip.clip.encode_image(picture))


def test_decode_draws_noise_from_the_seed_and_refuses_another_shape(unclip: UnCLIP) -> None:
    z = torch.randn(2, tiny_models.DIM)
    one, other = (unclip.decode(z, seed=seed, **FEW) for seed in ([3, 4], [3, 5]))
    assert one.shape == (2, 3, 128, 128)
    assert torch.equal(one[0], other[0]) and furthest(one[1], other[1]) > 0.01
    with pytest.raises(Dalle2EduError, match="noise of shape"):
        unclip.decode(z, torch.randn(1, 3, 32, 32), **FEW)
    with pytest.raises(Dalle2EduError, match="embeddings"):
        unclip.decode(torch.randn(2, tiny_models.DIM + 1), **FEW)
    with pytest.raises(Dalle2EduError, match="2 latents"):
        unclip.decode(z, seed=[1, 2, 3], **FEW)


# --- variations, blends, text diffs -----------------------------------------------------------


def test_variations_differ_by_eta_and_seed_and_share_the_meaning(
    unclip: UnCLIP, picture: Tensor
) -> None:
    varied = unclip.variations(picture, n=3, eta=1.0, seed=5, return_stages=True, **FEW)
    assert furthest(varied.latent.z_i, unclip.clip.encode_image(picture).expand(3, -1)) < SAME
    assert furthest(varied.images[0], varied.images[1]) > 0.1
    alone = unclip.variations(picture, n=1, eta=1.0, seed=6, **FEW)
    assert furthest(alone, varied.images[1:2]) < SAME  # picture i has the seed 5 + i
    still = unclip.variations(picture, n=2, eta=0.0, return_stages=True, **FEW).pictures[0]
    latent = unclip.invert(picture, decoder_steps=4, progress=False)
    assert (
        furthest(
            still, unclip.decode(latent.z_i, latent.x_T, return_stages=True, **FEW).pictures[0]
        )
        < SAME
    )


def test_a_blend_ends_at_both_pictures_and_goes_along_the_arc(
    unclip: UnCLIP, picture: Tensor
) -> None:
    blend = unclip.interpolate(picture, -picture, steps=3, return_stages=True, **FEW)
    for place, end in ((0, picture), (2, -picture)):
        latent = unclip.invert(end, decoder_steps=4, progress=False)
        assert furthest(blend.latent.x_T[place], latent.x_T[0]) < SAME
        assert furthest(blend.latent.z_i[place], latent.z_i[0]) < SAME
        assert (
            furthest(blend.images[place], unclip.decode(latent.z_i, latent.x_T, **FEW)) < SAME
        )
    ends = blend.latent.z_i[::2]
    assert furthest(blend.latent.z_i[1], slerp(ends[0], ends[1], 0.5)) < SAME


def test_fixed_noise_is_one_noise_for_the_whole_blend(unclip: UnCLIP, picture: Tensor) -> None:
    blend = unclip.interpolate(
        picture, -picture, steps=3, fix_noise=True, return_stages=True, **FEW
    )
    assert torch.equal(blend.latent.x_T[0], blend.latent.x_T[2])
    assert furthest(blend.latent.z_i[0], blend.latent.z_i[2]) > 0.01


def test_two_equal_pictures_blend_into_themselves_with_a_warning(
    unclip: UnCLIP, picture: Tensor
) -> None:
    with pytest.warns(UserWarning, match="same"):
        blend = unclip.interpolate(picture, picture.clone(), steps=3, **FEW)
    assert furthest(blend, blend[:1].expand_as(blend)) < SAME


def test_a_text_diff_turns_the_meaning_towards_the_words_and_keeps_the_noise(
    unclip: UnCLIP, picture: Tensor
) -> None:
    led = unclip.text_diff(
        picture, "red heart", "blue heart", steps=3, max_theta=0.5, return_stages=True, **FEW
    )
    latent = unclip.invert(picture, decoder_steps=4, progress=False)
    assert furthest(led.latent.z_i[0], latent.z_i[0]) < SAME
    assert furthest(led.latent.x_T, latent.x_T.expand(3, -1, -1, -1)) < SAME
    direction = words_direction(unclip, "red heart", "blue heart")
    near = led.latent.z_i @ direction[0]
    assert near[0] < near[1] < near[2] < 1
    assert furthest(led.latent.z_i[2], slerp(latent.z_i[0], direction[0], 0.5)) < SAME
    bare = words_direction(unclip, " ", "blue heart")
    assert furthest(bare, unclip.encode_text(["blue heart"]).text_emb) < 1e-6


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda u, x: u.variations(x, n=0, **FEW), "n must be 1"),
        (lambda u, x: u.variations(x, eta=1.5, **FEW), "eta"),
        (lambda u, x: u.variations(x.expand(2, -1, -1, -1), **FEW), "one picture"),
        (lambda u, x: u.variations(x * 3, **FEW), "in \\[-1, 1\\]"),
        (lambda u, x: u.variations(x * float("nan"), **FEW), "in \\[-1, 1\\]"),
        (lambda u, x: u.variations(x[0, 0], **FEW), "tensor \\(3, H, W\\)"),
        (lambda u, x: u.interpolate(x, x, steps=1, **FEW), "steps must be 2"),
        (lambda u, x: u.text_diff(x, "a", "b", max_theta=1.1, **FEW), "max_theta"),
        (lambda u, x: u.text_diff(x, "a", "b", max_theta=0, **FEW), "max_theta 0"),
        (lambda u, x: u.text_diff(x, "a", "b", steps=1, **FEW), "steps must be 2"),
        (lambda u, x: u.text_diff(x, "a", "  ", **FEW), "target is empty"),
        (lambda u, x: u.text_diff(x, "red heart", "red heart", **FEW), "the same to CLIP"),
        (
            lambda u, x: u.inpaint(x, torch.zeros(128, 128), "a cat", progress=False),
            "black everywhere",
        ),
        (lambda u, x: u.inpaint(x, torch.ones(64, 128), "a cat", progress=False), "128 x 64"),
        (lambda u, x: u.inpaint(x, torch.ones(128, 128), " ", progress=False), "empty"),
        (
            lambda u, x: u.inpaint(x, torch.ones(128, 128), "a cat", n=0, progress=False),
            "n must be 1",
        ),
        (
            lambda u, x: u.text_to_image(["a cat"], best_of=0, progress=False),
            "best_of must be 1",
        ),
        (lambda u, x: u.analytic_prior(torch.zeros(2, tiny_models.DIM), ["a cat"]), "2 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    unclip: UnCLIP, picture: Tensor, call: Any, said: str
) -> None:
    with pytest.raises(Dalle2EduError, match=said) as caught:
        call(unclip, picture)
    assert "\n" not in str(caught.value)


# --- inpainting -------------------------------------------------------------------------------


def paint(unclip: UnCLIP, image: Any, mask: Any, **settings: Any) -> Tensor:
    few = {**FEW, "prior_steps": 2, "jump": 2, "resamples": 2}
    return unclip.inpaint(image, mask, "a cat", **few, **settings)


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


# --- reranking and the prior's variance -------------------------------------------------------


def test_best_of_keeps_the_picture_that_clip_finds_nearest(unclip: UnCLIP) -> None:
    steps = {"prior_steps": 2, **FEW}
    best = unclip.text_to_image(
        ["a cat", "火箭"], seed=[7, 20], best_of=3, return_stages=True, **steps
    )
    for place, (prompt, first) in enumerate((("a cat", 7), ("火箭", 20))):
        tries = unclip.text_to_image(
            [prompt] * 3, seed=[first, first + 1, first + 2], return_stages=True, **steps
        )
        with torch.no_grad():
            scores = unclip.clip_scores(tries.images, tries.text_emb)
        winner = int(scores.argmax())
        assert best.seeds[place] == first + winner
        assert furthest(best.images[place], tries.images[winner]) < SAME
        assert best.prompts[place] == prompt


def test_best_places_by_hand() -> None:
    assert best_places(torch.tensor([0.1, 0.9, 0.2, 0.5, 0.4, 0.3]), 3) == [1, 3]


def test_the_analytic_variance_is_an_option_of_the_priors_sampler(unclip: UnCLIP) -> None:
    embeddings = torch.randn(6, tiny_models.DIM) * 0.1 + 0.2
    process = unclip.analytic_prior(embeddings, ["a cat", "火箭"] * 3, prior_steps=3)
    assert isinstance(process, AnalyticDiffusion) and process.num_timesteps == 3
    assert (process.analytic_variance >= process.posterior_variance - 1e-12).all()
    fixed, best = (
        unclip.text_to_image(
            ["a cat"], prior_steps=3, prior_process=way, return_stages=True, **FEW
        )
        for way in (None, process)
    )
    assert furthest(fixed.candidates, best.candidates) > 1e-4
