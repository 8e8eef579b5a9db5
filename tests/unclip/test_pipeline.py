"""The whole way from prompts to pictures, with tiny random networks: what depends on
what, and what is refused.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data.domains import pick_domain
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip, without_padding
from dalle2_edu.unclip.pipeline import Stages, UnCLIP
from dalle2_edu.unclip.prior import DiffusionPrior, nearest_to_text

STEPS = {"prior_steps": 3, "decoder_steps": 3, "upsampler_steps": 2}
# A matrix product sums in another order when the batch is larger: 1e-7 an operation,
# some ten times more after all stages (measured: 3e-5). Another noise, or another
# picture's text, moves pixels by 0.1 and more.
SAME = 1e-3


@pytest.fixture(scope="module")
def unclip() -> UnCLIP:
    torch.manual_seed(0)
    return tiny_models.pipeline()


def draw(unclip: UnCLIP, prompts: list[str], **settings: Any) -> Any:
    return unclip.text_to_image(prompts, **{**STEPS, "progress": False, **settings})


def stages_of(unclip: UnCLIP, prompts: list[str], **settings: Any) -> Stages:
    return unclip.stages(prompts, **{**STEPS, "progress": False, **settings})


def furthest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def test_a_picture_depends_on_its_own_prompt_and_seed_alone(unclip: UnCLIP) -> None:
    together = draw(unclip, ["rocket", "火箭", "a red circle"], seed=[5, 6, 5])
    assert together.shape == (3, 3, 128, 128)
    assert together.abs().max() <= 1
    assert furthest(draw(unclip, ["rocket"], seed=5), together[:1]) < SAME
    assert furthest(draw(unclip, ["moon", "火箭"], seed=6)[1:], together[1:2]) < SAME
    assert furthest(draw(unclip, ["rocket"], seed=6), together[:1]) > 0.1
    assert furthest(draw(unclip, ["a cat"], seed=5), together[:1]) > 0.01


def test_one_seed_is_for_all_pictures(unclip: UnCLIP) -> None:
    first, second = draw(unclip, ["rocket", "rocket"], seed=3)
    assert furthest(first, second) < SAME
    assert torch.equal(
        draw(unclip, ["rocket"], seed=3), draw(unclip, ["rocket"], seed=3)
    )


def test_more_steps_in_one_stage_leave_the_noise_of_the_others(unclip: UnCLIP) -> None:
    few = stages_of(unclip, ["rocket"])
    more = stages_of(unclip, ["rocket"], upsampler_steps=4)
    assert torch.equal(few.candidates, more.candidates)
    assert torch.equal(few.pictures[0], more.pictures[0])
    assert not torch.equal(few.images, more.images)


def test_stages_hold_everything_between(unclip: UnCLIP) -> None:
    stages = stages_of(unclip, ["rocket", "火箭"])
    assert stages.prompts == ["rocket", "火箭"]
    assert ["".join(pieces) for pieces in stages.pieces] == stages.prompts
    assert stages.candidates.shape == (2, 2, tiny_models.DIM)
    assert not torch.equal(stages.candidates[:, 0], stages.candidates[:, 1])
    assert torch.equal(
        stages.image_emb, nearest_to_text(stages.candidates, stages.text_emb)
    )
    assert [tuple(picture.shape) for picture in stages.pictures] == [
        (2, 3, side, side) for side in (32, 64, 128)
    ]
    assert torch.equal(stages.images, draw(unclip, ["rocket", "火箭"]))


def test_guidance_changes_the_decoder_alone(unclip: UnCLIP) -> None:
    plain, guided = (
        stages_of(unclip, ["rocket"], guidance_scale=scale) for scale in (1.0, 4.0)
    )
    assert torch.equal(plain.image_emb, guided.image_emb)
    assert furthest(plain.pictures[0], guided.pictures[0]) > 1e-3


def test_guidance_leads_away_from_the_negative_prompt(unclip: UnCLIP) -> None:
    plain = stages_of(unclip, ["rocket"], guidance_scale=3.0)
    away = stages_of(unclip, ["rocket"], guidance_scale=3.0, negative_prompt="a cat")
    assert torch.equal(plain.image_emb, away.image_emb)  # the prior is not guided
    # at a scale of 0 only what guidance leads away from is left
    text = unclip.encode_text(["a cat"])
    null_emb = unclip.decoder.null_image_emb.expand_as(plain.image_emb)
    model = unclip.denoiser(plain.image_emb, unclip.encode_text(["x"]), 0.0, text)
    x_t, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    conditioning = unclip.decoder.read(null_emb, **text.as_conditioning())
    expected = unclip.decoder.denoise(x_t, t, **conditioning)
    assert furthest(model(x_t, t), expected) < SAME
    assert furthest(plain.images, away.images) > 1e-4


def test_a_negative_prompt_without_guidance_is_refused(unclip: UnCLIP) -> None:
    with pytest.raises(Dalle2EduError, match="works through guidance"):
        draw(unclip, ["rocket"], guidance_scale=1.0, negative_prompt="a cat")


def test_callback_sees_every_step_of_every_stage(unclip: UnCLIP) -> None:
    seen: list[tuple[str, int, tuple[int, ...]]] = []
    draw(
        unclip,
        ["rocket"],
        callback=lambda stage, step, guess: seen.append(
            (stage, step, tuple(guess.shape))
        ),
    )
    embedding = [("prior", step, (1, tiny_models.DIM)) for step in range(3)]
    decoded = [("decoder", step, (1, 3, 32, 32)) for step in range(3)]
    upsampled = [
        (f"upsampler_{side}", step, (1, 3, side, side))
        for side in (64, 128)
        for step in range(2)
    ]
    assert seen == [*embedding, *embedding, *decoded, *upsampled]  # two candidates


def test_the_last_guess_of_each_stage_is_its_result(unclip: UnCLIP) -> None:
    last: dict[str, Tensor] = {}
    stages = stages_of(
        unclip,
        ["rocket"],
        callback=lambda stage, _, guess: last.update({stage: guess}),
    )
    prior = unclip.prior.unstandardise(
        last["prior"]
    )  # back in CLIP's space; the last candidate's
    torch.testing.assert_close(prior, stages.candidates[:, -1], rtol=0, atol=1e-4)
    for stage, picture in zip(
        ("decoder", "upsampler_64", "upsampler_128"), stages.pictures, strict=True
    ):
        torch.testing.assert_close(last[stage], picture, rtol=0, atol=1e-4)


def test_progress_can_be_turned_off(
    unclip: UnCLIP, capfd: pytest.CaptureFixture[str]
) -> None:
    draw(unclip, ["rocket"])
    assert capfd.readouterr() == ("", "")
    draw(unclip, ["rocket"], progress=True)
    bars = capfd.readouterr().err
    assert all(
        stage in bars for stage in ("prior", "decoder", "upsampler_64", "upsampler_128")
    )


@pytest.mark.parametrize(
    ("prompts", "seed", "said"),
    [
        ([], 0, "prompt"),
        (["rocket", " \t"], 0, "empty"),
        ("rocket", 0, "list"),
        (["rocket", "cat"], [1, 2, 3], "2 prompts"),
        (["rocket"], None, "A seed is a whole number.*None"),
        (["rocket"], 1.5, "A seed is a whole number.*1.5"),
        (["rocket"], [1.5], "A seed is a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    unclip: UnCLIP, prompts: Any, seed: Any, said: str
) -> None:
    with pytest.raises(Dalle2EduError, match=said):
        draw(unclip, prompts, seed=seed)


@pytest.mark.parametrize("name", ["prior_steps", "decoder_steps", "upsampler_steps"])
@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True])
def test_steps_that_there_cannot_be_are_refused_by_their_name(
    unclip: UnCLIP, name: str, steps: Any
) -> None:
    with pytest.raises(Dalle2EduError, match=f"{name} must be .* from 1 to 1000"):
        draw(unclip, ["rocket"], **{name: steps})


def test_guidance_that_is_no_number_is_refused(unclip: UnCLIP) -> None:
    with pytest.raises(Dalle2EduError, match="finite"):
        draw(unclip, ["rocket"], guidance_scale=float("nan"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(Dalle2EduError, match="device 'cuda:99'"):
        UnCLIP.from_zoo("emoji", device="cuda:99")


def test_unknown_domain_lists_the_known_ones() -> None:
    with pytest.raises(Dalle2EduError, match="emoji, shapes"):
        UnCLIP.from_zoo("cats")


def test_a_prior_that_learned_from_another_clip_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    card = zoo.Card(recipe="test", tier="smoke", data_licence="none")
    zoo.save("shared", "clip", Clip(tiny_models.CLIP), card)
    zoo.save(
        "emoji",
        "prior",
        DiffusionPrior(tiny_models.PRIOR),
        replace(card, clip="0" * 64),
    )
    with pytest.raises(Dalle2EduError, match="another CLIP"):
        UnCLIP.from_zoo("emoji")


def test_a_long_prompt_warns_with_what_was_cut(unclip: UnCLIP) -> None:
    long = "a rocket " * 20 + "under a purple umbrella"
    with pytest.warns(UserWarning, match="purple umbrella") as caught:
        picture = draw(unclip, [long])
    assert caught[0].filename == __file__  # it points at the caller, not into a library
    kept = long[: -len(unclip.tokenizer.cut(long))]
    assert furthest(picture, draw(unclip, [kept])) < SAME
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(unclip, ["rocket"])


@pytest.mark.parametrize(
    ("prompt", "domain"),
    [
        ("rocket", "emoji"),
        ("火箭", "emoji"),
        (" Rocket ", "emoji"),
        ("a small red circle above a blue star", "shapes"),
        ("红色的圆形在蓝色的五角星上面", "shapes"),
        ("something nobody has drawn", "emoji"),
    ],
)
def test_pick_domain(prompt: str, domain: str) -> None:
    assert pick_domain(prompt) == domain


def test_padding_need_not_be_computed() -> None:
    pipeline = tiny_models.pipeline()
    text, null = (
        pipeline.encode_text(["a red star", "a sign"]),
        pipeline.encode_text(["", ""]),
    )
    short, short_null = without_padding(text, null)
    length = int(text.text_mask.sum(dim=1).max())
    assert (
        short.text_mask.shape == short_null.text_mask.shape == (2, length)
        and length < text.text_mask.shape[1]
    )
    z, x, t = (
        torch.randn(2, tiny_models.DIM),
        torch.randn(pipeline.decoder_shape(2)),
        torch.tensor([3, 900]),
    )
    for network, first in ((pipeline.prior, (z, t)), (pipeline.decoder, (x, t, z))):
        whole, cut = (
            network(*first, **each.as_conditioning()) for each in (text, short)
        )
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)
