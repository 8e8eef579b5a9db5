"""What each network learns from: one step of every task, the drop rates, and the data
they share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor, nn

from dalle2_edu.data import shapes
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.drawing.pictures import cover
from dalle2_edu.recipes.data import mix, repeats, shrink, to_float
from dalle2_edu.recipes.encoded import Encoded, encode
from dalle2_edu.recipes.inpainting import (
    IMAGE_DROP,
    InpaintTask,
    InpaintUpsamplerTask,
    hole_loss,
    random_holes,
    rectangles,
    strokes,
)
from dalle2_edu.recipes.text2image import ClipTask, jitter
from dalle2_edu.recipes.unclip import (
    IMAGE_DROP_DECODER,
    TEXT_DROP_DECODER,
    TEXT_DROP_PRIOR,
    ARPriorTask,
    DecoderTask,
    PriorTask,
    RegressionTask,
    UpsamplerTask,
    random_crops,
)
from dalle2_edu.text2image.clip import Clip
from dalle2_edu.training import TrainConfig
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.latents import fit_pca
from dalle2_edu.unclip.upsampler import Upsampler, from_detail, reduce

CONFIG = TrainConfig(steps=1, batch_size=4)
DRAWS = 4000  # a share of one half is then off by .04 once in two million tests


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return shapes.pairs(6, 64)


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return tiny_models.awake(Clip(tiny_models.CLIP))


@pytest.fixture(scope="module")
def data(pairs: Pairs, clip: Clip) -> Encoded:
    return encode(pairs, 32, clip, default_tokenizer(), batch_size=4)


def upsampler_task(damage: str) -> UpsamplerTask:
    size = 64 if damage == "blur" else 128
    images = shapes.pairs(4, 128).images
    return UpsamplerTask(
        "upsampler", images, CONFIG, tiny_models.upsampler_config(size), damage
    )


def inpaint_upsampler_task(damage: str) -> InpaintUpsamplerTask:
    trained = tiny_models.awake(
        Upsampler(tiny_models.upsampler_config(64 if damage == "blur" else 128))
    )
    return InpaintUpsamplerTask(
        "inpaint-upsampler", shapes.pairs(4, 128).images, CONFIG, trained, damage
    )


def ar_prior_task(data: Encoded) -> ARPriorTask:
    return ARPriorTask(
        "ar", data, CONFIG, tiny_models.AR_PRIOR, fit_pca(data.image_emb)
    )


def inpaint_task(data: Encoded) -> InpaintTask:
    return InpaintTask(
        "inpaint", data, CONFIG, tiny_models.awake(Decoder(tiny_models.DECODER))
    )


TASKS: dict[str, Callable[[Pairs, Encoded], Any]] = {
    "clip": lambda pairs, data: ClipTask("clip", pairs, CONFIG, tiny_models.CLIP),
    "prior": lambda pairs, data: PriorTask("prior", data, CONFIG, tiny_models.PRIOR),
    "decoder": lambda pairs, data: DecoderTask(
        "decoder", data, CONFIG, tiny_models.DECODER
    ),
    "ar_prior": lambda pairs, data: ar_prior_task(data),
    "regression": lambda pairs, data: RegressionTask(
        "regression", data, CONFIG, tiny_models.PRIOR
    ),
    "inpaint": lambda pairs, data: inpaint_task(data),
    "blur": lambda pairs, data: upsampler_task("blur"),
    "bsr": lambda pairs, data: upsampler_task("bsr"),
    "inpaint-blur": lambda pairs, data: inpaint_upsampler_task("blur"),
    "inpaint-bsr": lambda pairs, data: inpaint_upsampler_task("bsr"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_one_step_reaches_every_parameter(
    kind: str, pairs: Pairs, data: Encoded
) -> None:
    task = TASKS[kind](pairs, data)
    loss, numbers = task.loss(
        task.model, task.batch(torch.arange(4)), torch.Generator().manual_seed(0)
    )
    assert loss.isfinite() and loss.shape == ()
    assert all(number.isfinite() for number in numbers.values())
    loss.backward()  # several processes wait for each parameter's gradient at each step
    assert [
        name
        for name, parameter in task.model.named_parameters()
        if parameter.grad is None
    ] == []


@pytest.mark.parametrize("kind", ["decoder", "inpaint", "blur", "inpaint-blur"])
def test_sample_grids_are_pictures(kind: str, pairs: Pairs, data: Encoded) -> None:
    task = TASKS[kind](pairs, data)
    with torch.no_grad():
        grid = task.sample(task.model.eval())
    assert grid.shape[1:] == (3, *[task.model.config.unet.image_size] * 2)
    assert len(grid) % 2 == 0  # as many drawn as given
    assert grid.abs().max() <= 1


@pytest.mark.parametrize(
    "kind", ["prior", "decoder", "inpaint", "blur", "inpaint-blur"]
)
def test_the_loss_is_its_generators_doing(
    kind: str, pairs: Pairs, data: Encoded
) -> None:
    task = TASKS[kind](pairs, data)
    tiny_models.awake(task.model)
    batch = task.batch(torch.arange(4))
    one, same, other = (
        task.loss(task.model, dict(batch), torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_drop_rates_are_as_stated_and_independent(data: Encoded) -> None:
    assert TEXT_DROP_PRIOR == 0.1  # the paper's
    assert (TEXT_DROP_DECODER, IMAGE_DROP_DECODER) == (0.15, 0.35)  # not the paper's
    indices = torch.arange(DRAWS) % len(data)
    null = data.null.text_emb

    batch = PriorTask("prior", data, CONFIG, tiny_models.PRIOR).batch(indices)
    assert (batch["text_emb"] == null).all(dim=1).float().mean() == pytest.approx(
        0.1, abs=0.025
    )

    batch = DecoderTask("decoder", data, CONFIG, tiny_models.DECODER).batch(indices)
    no_text, no_image = (batch["text_emb"] == null).all(dim=1), ~batch["image_keep"]
    assert no_text.float().mean() == pytest.approx(0.15, abs=0.03)
    assert no_image.float().mean() == pytest.approx(0.35, abs=0.04)
    assert (no_text & no_image).float().mean() == pytest.approx(0.05, abs=0.02)


def test_dropped_text_is_the_encoding_of_nothing(data: Encoded, clip: Clip) -> None:
    with torch.no_grad():
        nothing = clip.encode_text(default_tokenizer()(["", ""])).cut(2).for_decoder()
    dropped, kept = (
        data.draw(torch.tensor([0, 5]), text_drop=1.0),
        data.draw(torch.tensor([0, 5]), text_drop=0.0),
    )
    for (
        name,
        expected,
    ) in nothing.items():  # two tokens, start and end: the rest is padding
        torch.testing.assert_close(dropped[name], expected, rtol=0, atol=1e-5)
        assert dropped[name].dtype == kept[name].dtype
        assert not torch.equal(kept[name], expected)
    longest = int(kept["text_mask"].sum(dim=1).max())
    assert {
        kept[name].shape[1] for name in ("text_enc", "text_mask", "text_tokens")
    } == {longest}


def test_encoded_is_what_clip_says(pairs: Pairs, data: Encoded, clip: Clip) -> None:
    tokenizer = default_tokenizer()
    with torch.no_grad():
        image_emb = clip.encode_image(to_float(pairs.images))
        text = clip.encode_text(
            tokenizer([caption for captions in pairs.captions for caption in captions])
        )
    torch.testing.assert_close(data.image_emb, image_emb, rtol=0, atol=1e-5)
    torch.testing.assert_close(data.text.text_emb, text.text_emb, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        data.text.text_enc.float(), text.text_enc, rtol=1e-3, atol=1e-3
    )  # half precision
    assert torch.equal(data.text.text_mask, text.text_mask)
    assert data.images.dtype == torch.uint8 and data.images.shape == (6, 3, 32, 32)


def test_every_caption_of_a_picture_is_drawn_and_no_other(
    pairs: Pairs, data: Encoded
) -> None:
    for index in (0, 5):
        drawn = set(data.captions.draw(torch.full((200,), index)).tolist())
        start = sum(len(captions) for captions in pairs.captions[:index])
        assert drawn == set(range(start, start + len(pairs.captions[index])))


class Listener(nn.Module):
    """Answers zeros, and keeps what it was asked."""

    def forward(self, *args: Tensor, **given: Tensor) -> Tensor:
        self.args, self.given = args, given
        return torch.zeros(
            len(args[0]), tiny_models.AR_PRIOR.rank, tiny_models.AR_PRIOR.buckets
        )


def test_prior_targets_are_standardised(data: Encoded) -> None:
    task = RegressionTask("regression", data, CONFIG, tiny_models.PRIOR)
    everything = task.batch(torch.arange(len(data)))
    loss, _ = task.loss(
        lambda **_: torch.zeros(len(data), tiny_models.DIM),
        everything,
        torch.Generator(),
    )  # type: ignore[arg-type]
    n = len(
        data
    )  # the mean square of standardised numbers is their variance, counted with n - 1
    torch.testing.assert_close(loss, torch.tensor((n - 1) / n))


def test_the_ar_prior_learns_codes_and_the_dot_product_with_the_text_it_reads(
    data: Encoded,
) -> None:
    task, listener = ar_prior_task(data), Listener()
    dots = data.measured()[1]
    starts, emb = data.captions.starts, data.text.text_emb
    assert len(dots) == len(emb)
    torch.testing.assert_close(dots[starts[2]], data.image_emb[2] @ emb[starts[2]])
    batch = task.batch(torch.arange(DRAWS) % len(data))
    text_emb = batch["text_emb"]
    empty = (text_emb == data.null.text_emb).all(dim=1)
    assert empty.float().mean() == pytest.approx(0.1, abs=0.025)
    task.loss(listener, batch, torch.Generator())
    codes, dot = listener.args[0], listener.given["dot"]
    assert torch.equal(dot == task.prior.no_text, empty)
    assert torch.equal(codes[:6], task.prior.encode(data.image_emb)[:, :-1])
    shown = (data.image_emb[torch.arange(DRAWS) % len(data)] * text_emb).sum(dim=1)
    assert torch.equal(dot[~empty], task.prior.encode_dot(shown)[~empty])
    assert task.metadata()["pca"]["rank"] == tiny_models.AR_PRIOR.rank


def test_holes_are_rectangles_strokes_and_sometimes_everything() -> None:
    for boxes in (rectangles(200, 32), strokes(200, 32)):
        area = boxes.float().mean(dim=(1, 2))
        assert (area > 0).all() and area.max() < 0.9 and area.std() > 0.05
    for box in rectangles(20, 32):
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None])
    holes = random_holes(DRAWS, 16)
    assert holes.shape == (DRAWS, 1, 16, 16) and holes.dtype == torch.bool
    assert holes.all(dim=(1, 2, 3)).float().mean() == pytest.approx(0.1, abs=0.025)


def test_inpainting_is_learned_from_the_decoder_on(data: Encoded) -> None:
    decoder = tiny_models.awake(Decoder(tiny_models.DECODER))
    task = InpaintTask("inpaint", data, CONFIG, decoder)
    own, theirs = task.model.decoder.state_dict(), decoder.state_dict()  # type: ignore[operator, union-attr]
    assert all(
        torch.equal(own[name], theirs[name])
        for name in theirs
        if name != "unet.stem.weight"
    )
    assert task.batch(torch.arange(3))["hole"].shape == (3, 1, 32, 32)


def test_inpainting_is_learned_from_the_pixels_of_the_holes(data: Encoded) -> None:
    diffusion, noise = inpaint_task(data).diffusion, torch.randn(3, 3, 32, 32)
    x0, index, hole = (
        torch.rand(3, 3, 32, 32) * 2 - 1,
        torch.tensor([3, 300, 900]),
        random_holes(3, 32),
    )
    loss = hole_loss(
        diffusion, lambda x_t, t, hole: torch.zeros_like(x_t), x0, index, noise, hole
    )  # type: ignore[arg-type]
    target = diffusion.calculate_v(x0, index, noise)
    assert loss.item() == pytest.approx(
        target[hole.expand_as(target)].square().mean().item(), rel=1e-5
    )
    none = torch.zeros_like(hole)
    assert hole_loss(diffusion, lambda x_t, t, hole: x_t, x0, index, noise, none) == 0  # type: ignore[arg-type]


def test_who_learns_to_inpaint_must_often_do_without_the_embedding(
    data: Encoded,
) -> None:
    keep = inpaint_task(data).batch(torch.arange(DRAWS) % len(data))["image_keep"]
    assert keep.float().mean() == pytest.approx(1 - IMAGE_DROP, abs=0.04)


def test_crops_are_whole_pieces_at_aligned_corners() -> None:
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    images = torch.stack([rows, columns, rows + columns]).expand(400, 3, 16, 16)
    crops = random_crops(images, side=4, step=2)
    corners = crops[:, :2, 0, 0]  # (400, 2)
    assert set(corners.flatten().tolist()) == {0, 2, 4, 6, 8, 10, 12}
    for crop, (top, left) in zip(crops, corners.tolist(), strict=True):
        assert torch.equal(crop, images[0][:, top : top + 4, left : left + 4])


def test_upsampler_trains_on_a_quarter_of_the_width() -> None:
    task = upsampler_task("bsr")
    assert task.batch(torch.arange(2))["images"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("damage", ["blur", "bsr"])
def test_upsampler_learns_what_its_damaged_condition_lacks(
    damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, seen = upsampler_task(damage), {}

    def losses(
        model: object, x0: Tensor, index: Tensor, noise: Tensor, low_res: Tensor
    ) -> dict[str, Tensor]:
        seen.update(x0=x0, low_res=low_res)
        return {"loss": x0.new_zeros(len(x0))}

    monkeypatch.setattr(task.diffusion, "training_losses", losses)
    batch = task.batch(torch.arange(4))
    task.loss(task.model, batch, torch.Generator().manual_seed(0))
    images = to_float(batch["images"])
    torch.testing.assert_close(
        from_detail(seen["x0"], seen["low_res"]), images, rtol=0, atol=1e-5
    )
    assert not torch.equal(seen["low_res"], reduce(images, 2))


def test_an_inpaint_upsamplers_small_picture_is_damaged_in_the_hole_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, seen = inpaint_upsampler_task("bsr"), {}

    def losses(
        model: object, x0: Tensor, index: Tensor, noise: Tensor, **given: Tensor
    ) -> dict[str, Tensor]:
        seen.update(x0=x0, **given)
        return {"loss": x0.new_zeros(len(x0))}

    monkeypatch.setattr(task.diffusion, "training_losses", losses)
    torch.manual_seed(1)  # crops with some of a hole and some of what is around it
    batch = task.batch(torch.arange(4))
    task.loss(task.model, batch, torch.Generator().manual_seed(0))
    images, hole = (
        to_float(batch["images"]),
        cover(batch["hole"], 16).expand(4, 3, 16, 16),
    )
    assert torch.equal(seen["known"], images)
    torch.testing.assert_close(
        from_detail(seen["x0"], seen["low_res"]), images, rtol=0, atol=1e-5
    )
    changed = seen["low_res"] != reduce(images, 2)
    assert 0.1 < hole.float().mean() < 0.9
    assert changed[hole].any() and not changed[~hole].any()


def test_clips_pictures_are_moved_a_little(pairs: Pairs) -> None:
    images = to_float(pairs.images)
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and not torch.equal(moved, images)
    assert (moved - images).abs().mean() < 0.25  # the picture is still the same
    plain = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(
        jitter(plain, torch.Generator()), plain
    )  # nothing comes in from outside


def test_a_small_set_is_repeated_to_weigh_as_much() -> None:
    large, small = shapes.pairs(7, 16), shapes.pairs(2, 16, seed=1)
    small = replace(small, skipped=3)
    assert repeats(len(small), len(large)) == 4 and repeats(5, 2) == 1
    both = mix([(large, 1), (small, 2)])
    assert len(both) == 11 and both.skipped == 3
    assert both.captions == large.captions + small.captions * 2
    assert torch.equal(both.images[7:9], small.images) and torch.equal(
        both.images[9:], small.images
    )


def test_shrink_is_the_box_average() -> None:
    images = torch.tensor([[0, 3], [6, 8]], dtype=torch.uint8).expand(1, 3, 2, 2)
    assert shrink(images, 1).flatten().tolist() == [4, 4, 4]  # 17 / 4
    assert torch.equal(shrink(images, 2), images)
