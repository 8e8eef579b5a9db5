r"""unCLIP paints a part of a picture anew and leaves every other pixel as it is.

The prior draws an image embedding z_i for the prompt, and the decoder and the
upsamplers paint the hole from it. There are two ways to make the hole fit what is
around it:

    replace     put the known pixels in place at each step, noised as much as the step;
                go back up and down again, so that both parts agree          RePaint (arXiv 2201.09865)
    finetuned   show the known pixels to networks that were fine-tuned to
                look at them                                                 GLIDE (2112.10741), section 3

`text2image.inpainting` has the walk of the first, `unclip.inpaint_networks` the
networks of the second. Both end the same way: a last step sets the known pixels
themselves, since detail and back is exact only up to rounding.

    pictures = inpaint(unclip, "cat.png", "mask.png", "cat with sunglasses", n=3)   # (3, 3, 128, 128)

Chapter 19 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.samplers import Denoiser
from dalle2_edu.drawing.pictures import (
    Picture,
    as_mask,
    check_same_shape,
    cover,
    one_picture,
    resize,
    size_of,
)
from dalle2_edu.drawing.run import Run, checked_count, checked_prompts, following_seeds
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import TextEncoding, without_padding
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.unclip.inpaint_networks import InpaintUpsampler
from dalle2_edu.unclip.pipeline import EDIT_STEPS, UnCLIP
from dalle2_edu.unclip.prior import nearest_to_text
from dalle2_edu.unclip.stage import Stage
from dalle2_edu.unclip.upsampler import Upsampler, from_detail, to_detail

JUMP = 5  # levels that RePaint climbs back; 10 in the paper, for its 250 steps
RESAMPLES = 5  # times that it does so; 10 in the paper
Method = Literal["finetuned", "replace"]


@torch.no_grad()
def inpaint(
    unclip: UnCLIP,
    image: Picture,
    mask: Picture,
    prompt: str,
    *,
    n: int = 1,
    seed: int | Sequence[int] = 0,
    method: Method | None = None,
    guidance_scale: float | None = None,
    prior_steps: int | None = None,
    decoder_steps: int = EDIT_STEPS,
    upsampler_steps: int | None = None,
    resamples: int = RESAMPLES,
    progress: bool = True,
) -> Tensor:
    """n pictures, (n, 3, S, S), in which the masked part is painted anew and every
    other pixel is unchanged.

    mask is True (in a file: white) where to paint; prompt says what the whole picture
    should be of. image and mask must have the same proportions; both are brought to the
    pipeline's size first, and "unchanged" speaks of that picture. Picture i has seed +
    i. method: "finetuned" is the default where there is a fine-tuned decoder; resamples
    are those of "replace". An all-white mask keeps nothing. Raises Dalle2EduError for
    one that is all black, an empty prompt, n below 1, what is no picture, and
    "finetuned" where there is no such network.
    """
    method = checked_method(unclip, method)
    n = checked_count("n", n)
    run = Run(following_seeds(seed, n), unclip.device, progress)
    text = unclip.encode_text(checked_prompts([prompt] * n, unclip.tokenizer))
    check_same_shape(size_of(image), size_of(mask))
    hole = as_mask(mask, unclip.image_size).to(unclip.device)  # (1, 1, S, S)
    picture = one_picture(image, unclip.image_size).to(unclip.device)  # (1, 3, S, S)
    known = picture.expand(n, -1, -1, -1)  # (n, 3, S, S)

    # z_i says what the *whole* picture is of: the prior knows nothing of the hole
    candidates = unclip.draw_embeddings(text, run, steps=prior_steps)  # (n, 2, D)
    z_i = nearest_to_text(candidates, text.text_emb)  # (n, D)
    stage = unclip.decoder_stage.changed(
        steps=decoder_steps, guidance_scale=guidance_scale, name="decoder_steps"
    )
    # the hole is closed at the decoder's size; the upsamplers refine it
    side = unclip.decoder.config.unet.image_size  # 32
    small = resize(known, side)  # (n, 3, 32, 32)
    small_hole = cover(hole, side)  # (1, 1, 32, 32): any pixel that touches it
    if method == "finetuned":
        # it was trained to see the known pixels: one walk down is enough
        resamples = 1
        denoiser = inpaint_denoiser(
            unclip, z_i, text, small, small_hole, stage.guidance_scale
        )
    else:
        # the decoder as it is: `repaint` makes it agree with what is known
        denoiser = unclip.denoiser(z_i, text, stage.guidance_scale)
    picture = repaint(
        denoiser,
        stage.process,
        small,
        small_hole,
        run.noise("decoder"),
        jump=JUMP,
        resamples=resamples,
        progress=run.label("decoder"),
    )
    for upsampler, upsampler_stage in upsamplers_for(unclip, method):
        stage = upsampler_stage.changed(steps=upsampler_steps, name="upsampler_steps")
        picture = inpaint_detail(upsampler, stage, picture, known, hole, run)
    return picture  # (n, 3, S, S)


def checked_method(unclip: UnCLIP, method: Method | None) -> Method:
    """The way to inpaint: what was asked for, or else the best that there is."""
    # Karlo's upsamplers, for instance
    if not unclip.draws_detail:
        raise Dalle2EduError(
            "This pipeline's upsamplers draw pictures and not detail, so it can't inpaint here:"
            " take the miniature, or GLIDE's inpainting networks."
        )
    # None: not asked for
    if method not in (None, *get_args(Method)):
        raise Dalle2EduError(
            f"There is no way to inpaint called {method!r}: choose replace or finetuned."
        )
    if method == "finetuned" and unclip.inpaint_decoder is None:
        raise Dalle2EduError(
            "There is no decoder that was fine-tuned to inpaint (and reads this CLIP): train and"
            " publish the recipe emoji-inpaint or shapes-inpaint, or inpaint by replacing."
        )
    return method or ("replace" if unclip.inpaint_decoder is None else "finetuned")


def inpaint_denoiser(
    unclip: UnCLIP,
    z_i: Tensor,
    text: TextEncoding,
    known: Tensor,
    hole: Tensor,
    guidance_scale: float,
) -> Denoiser:
    """The inpaint decoder, closed over what it paints, z_i (B, D) and texts, and over
    the known part (B, 3, S, S) around the hole (1, 1, S, S).
    """
    model = unclip.inpaint_decoder
    # `checked_method` has seen to it
    assert model is not None
    decoder = model.decoder
    # what does not change from step to step is read once
    picture = {"known": known, "hole": hole.expand(len(known), -1, -1, -1)}
    # padding behind the longest text costs time and says nothing
    text, null = without_padding(text, unclip.encode_text([""] * len(z_i)))
    null_emb = model.null_image_emb.expand_as(z_i)  # (B, D)
    conditioning = decoder.read(z_i, **text.as_conditioning())
    null_conditioning = decoder.read(null_emb, **null.as_conditioning())
    # guided towards z_i and the text; the known part is shown on both sides
    return classifier_free(
        model.denoise,
        guidance_scale,
        {**null_conditioning, **picture},
        {**conditioning, **picture},
    )


def upsamplers_for(
    unclip: UnCLIP, method: Method
) -> list[tuple[Upsampler | InpaintUpsampler, Stage]]:
    """The upsamplers with their stages. Where the method is "finetuned" and there is a
    fine-tuned upsampler of the same size, it takes the plain one's place.
    """
    finetuned: dict[int, InpaintUpsampler] = {}  # by the size that they draw
    if method == "finetuned":
        for network in unclip.inpaint_upsamplers:
            finetuned[network.config.unet.image_size] = network

    chosen: list[tuple[Upsampler | InpaintUpsampler, Stage]] = []
    stages = unclip.upsampler_stages
    for upsampler, stage in zip(unclip.upsamplers, stages, strict=False):
        side = upsampler.config.unet.image_size
        chosen.append((finetuned.get(side, upsampler), stage))
    return chosen


def inpaint_detail(
    upsampler: Upsampler | InpaintUpsampler,
    stage: Stage,
    low_res: Tensor,
    known: Tensor,
    hole: Tensor,
    run: Run,
) -> Tensor:
    """One upsampler over a painted picture: low_res (B, 3, S, S) -> (B, 3, 2S, 2S).

    The upsampler diffuses detail, so the known detail is put in place at each step:
    what the known pixels have beyond the enlarged low_res, which near the hole is
    partly new. A fine-tuned one sees it as well, and need not go back up.
    """
    side = upsampler.config.unet.image_size
    known = resize(known, side)  # (B, 3, 2S, 2S)
    hole = cover(hole, side)  # (1, 1, 2S, 2S)
    name = f"upsampler_{side}"
    picture = {}  # what the network is shown beside the small picture
    if finetuned := isinstance(upsampler, InpaintUpsampler):
        picture = {"known": known, "hole": hole.expand(len(known), -1, -1, -1)}
    detail = repaint(
        lambda x_t, t: upsampler(x_t, t, low_res, **picture),
        stage.process,
        to_detail(known, low_res),  # what is known, in the units that are diffused
        hole,
        run.noise(name),
        jump=1,  # the small picture fits already: a short way back up is enough
        resamples=1 if finetuned else 2,
        eta=0.0,  # as the upsamplers are sampled elsewhere (Table 3: DDIM)
        clip=stage.clip,
        progress=run.label(name),
    )
    painted = from_detail(detail, low_res)  # (B, 3, 2S, 2S)
    # detail and back is exact only up to rounding: the known pixels themselves
    return torch.where(hole, painted, known)
