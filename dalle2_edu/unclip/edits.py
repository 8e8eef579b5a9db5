r"""Edits: variations, blends, text diffs and inpainting, what DALL·E 2 does with a picture that
you bring.

All of them turn the picture into its bipartite latent, (z_i, x_T), change the one half or the
other, and decode again (`latents` has the mathematics). unCLIP (arXiv 2204.06125), section 3:

    invert       picture -> (z_i, x_T): CLIP, and DDIM backwards through the decoder that is given z_i
    decode       (z_i, x_T) -> picture; right after `invert`, with eta = 0, the same one again
    variations   the same z_i, and fresh noise in each step: eta > 0                      section 3.1
    interpolate  z_i along the arc to another picture's, x_T as well or one for all       section 3.2
    text_diff    z_i a part of the way to where the words lead, x_T kept                  section 3.3
    inpaint      z_i from the prompt; the known pixels replaced at each step,             RePaint
                 or shown to networks that were taught to look at them                    GLIDE, section 3

Words play no part in the first five: the decoder reads the empty text. The inversion clips the
guessed picture just as sampling does: both must follow the same curve, and with clipping that
curve is the straighter one (measured on four emoji, 250 steps: PSNR 49 to 53 dB clipped, 41 to
53 not). The latent is that of the decoder's 32 x 32 picture; detail comes from the upsamplers.

Each function's first argument is the pipeline: `UnCLIP` has them as methods.

Chapter 19 uses this file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.samplers import Denoiser, ddim_invert
from dalle2_edu.drawing.pictures import (
    Picture,
    as_mask,
    as_pictures,
    check_same_shape,
    cover,
    one_picture,
    resize,
    size_of,
)
from dalle2_edu.drawing.run import Run, checked_count, checked_prompts, checked_seeds
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import TextEncoding, without_padding
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.unclip.inpaint_networks import InpaintUpsampler
from dalle2_edu.unclip.latents import Latent, slerp, text_direction
from dalle2_edu.unclip.prior import nearest_to_text
from dalle2_edu.unclip.upsampler import (
    DETAIL_CLIP,
    Upsampler,
    from_detail,
    to_detail,
    upsampler_diffusion,
)

if TYPE_CHECKING:
    from dalle2_edu.unclip.pipeline import UnCLIP

JUMP, RESAMPLES = 5, 5  # RePaint's 10 and 10, for our fewer steps
How = Literal["replace", "finetuned"]


@dataclass(frozen=True)
class Edited:
    """The result of an edit, for looking at: the latent that was decoded, and what the decoder
    and each upsampler drew, smallest first, each (B, 3, S, S) in [-1, 1].
    """

    latent: Latent
    pictures: list[Tensor]

    @property
    def images(self) -> Tensor:
        """The final pictures, (B, 3, S, S) in [-1, 1]."""
        return self.pictures[-1]


@torch.no_grad()
def invert(
    unclip: UnCLIP,
    image: Picture,
    decoder_steps: int = 50,
    guidance_scale: float = 1.0,
    progress: bool = True,
) -> Latent:
    """The bipartite latent of a picture (or of a batch of them, as a tensor).

    decode it with the same decoder_steps and guidance_scale: more steps give the picture back
    more exactly. Raises Dalle2EduError for what is no picture."""
    images = as_pictures(image, unclip.image_size).to(unclip.device)
    z_i, text = unclip.clip.encode_image(images), unclip.encode_text([""] * len(images))
    x_T = ddim_invert(
        unclip.denoiser(z_i, text, guidance_scale),
        unclip.decoder_process.respace(decoder_steps),
        resize(images, unclip.decoder.config.unet.image_size),
        progress="inversion" if progress else None,
    )
    return Latent(z_i, x_T)


@torch.no_grad()
def decode(
    unclip: UnCLIP,
    z_i: Tensor,
    x_T: Tensor | None = None,
    eta: float = 0.0,
    seed: int | Sequence[int] = 0,
    guidance_scale: float = 1.0,
    decoder_steps: int = 50,
    upsampler_steps: int = 10,
    return_stages: bool = False,
    progress: bool = True,
) -> Any:
    """A latent, z_i (B, D) and x_T (B, 3, S, S) -> pictures (B, 3, 128, 128); with
    return_stages an `Edited`.

    Without x_T the noise comes from the seeds, one for all or one each. eta is the share of
    fresh noise in each step. With eta 0, x_T decides the decoder's picture, and the seed the
    upsamplers' detail."""
    width = unclip.decoder.config.clip_dim
    if z_i.dim() != 2 or z_i.shape[1] != width:
        raise Dalle2EduError(
            f"The decoder paints from embeddings (B, {width}), not {tuple(z_i.shape)}."
        )
    run = Run(checked_seeds(seed, len(z_i), "latents"), unclip.device, progress)
    if x_T is None:
        x_T = run.noise("decoder start")(unclip.decoder_shape(len(z_i)))
    if x_T.shape != unclip.decoder_shape(len(z_i)):
        raise Dalle2EduError(
            f"{len(z_i)} embeddings need noise of shape {unclip.decoder_shape(len(z_i))}, not"
            f" {tuple(x_T.shape)}."
        )
    text = unclip.encode_text([""] * len(z_i))
    small = unclip.paint(z_i, text, run, decoder_steps, guidance_scale, x_T, eta)
    edited = Edited(Latent(z_i, x_T), unclip.enlarge(small, run, upsampler_steps))
    return edited if return_stages else edited.images


def variations(
    unclip: UnCLIP,
    image: Picture,
    n: int = 4,
    eta: float = 1.0,
    seed: int = 0,
    guidance_scale: float = 1.0,
    decoder_steps: int = 50,
    upsampler_steps: int = 10,
    return_stages: bool = False,
    progress: bool = True,
) -> Any:
    """n other pictures of what this picture is of: (n, 3, 128, 128), or with return_stages an
    `Edited`.

    What CLIP saw stays, the rest is drawn again: the more, the larger eta. With eta 0 all n are
    the picture itself, as the decoder gives it back. Picture i has the seed `seed` + i. Raises
    Dalle2EduError for n below 1, eta outside [0, 1] and what is no picture."""
    seeds = [seed + i for i in range(checked_count("n", n))]
    checked_share("eta", eta)
    one = one_picture(image, unclip.image_size)
    latent = invert(unclip, one, decoder_steps, guidance_scale, progress)
    z_i, x_T = latent.z_i.expand(n, -1), latent.x_T.expand(n, -1, -1, -1)
    return decode(
        unclip,
        z_i,
        x_T,
        eta,
        seeds,
        guidance_scale,
        decoder_steps,
        upsampler_steps,
        return_stages,
        progress,
    )


def interpolate(
    unclip: UnCLIP,
    image_a: Picture,
    image_b: Picture,
    steps: int = 7,
    fix_noise: bool = False,
    seed: int = 0,
    guidance_scale: float = 1.0,
    decoder_steps: int = 50,
    upsampler_steps: int = 10,
    return_stages: bool = False,
    progress: bool = True,
) -> Any:
    """A blend of two pictures in `steps` pictures, (steps, 3, 128, 128), or with return_stages
    an `Edited`.

    The noise goes along the arc between the two pictures' own, so that both ends are the
    pictures themselves; or, with fix_noise, one noise from the seed serves all, and only the
    meaning moves. Two equal pictures give that picture in every step, and a warning. Raises
    Dalle2EduError for fewer than 2 steps and what is no picture."""
    share = torch.linspace(0, 1, checked_count("steps", steps, least=2), device=unclip.device)
    both = torch.cat([one_picture(image, unclip.image_size) for image in (image_a, image_b)])
    if torch.equal(both[0], both[1]):
        warnings.warn(
            "The two pictures are the same: every step of the blend shows it again.",
            stacklevel=2,
        )
    if fix_noise:
        z_i = embed(unclip, both)
        x_T = (
            Run([seed], unclip.device)
            .noise("decoder start")(unclip.decoder_shape(1))
            .expand(steps, -1, -1, -1)
        )
    else:
        latent = invert(unclip, both, decoder_steps, guidance_scale, progress)
        z_i, x_T = latent.z_i, between(latent.x_T, share)
    return decode(
        unclip,
        between(z_i, share),
        x_T,
        seed=seed,
        guidance_scale=guidance_scale,
        decoder_steps=decoder_steps,
        upsampler_steps=upsampler_steps,
        return_stages=return_stages,
        progress=progress,
    )


def text_diff(
    unclip: UnCLIP,
    image: Picture,
    source: str,
    target: str,
    steps: int = 6,
    max_theta: float = 0.4,
    seed: int = 0,
    guidance_scale: float = 1.0,
    decoder_steps: int = 50,
    upsampler_steps: int = 10,
    return_stages: bool = False,
    progress: bool = True,
) -> Any:
    """The picture led from what `source` says towards what `target` says: (steps, 3, 128, 128),
    or an `Edited`.

    theta rises evenly from 0, the picture itself, to max_theta; the paper ends between 0.25 and
    0.5, and at 1 nothing of the picture's own meaning would be left. An empty source is no
    source: the target's embedding is the direction. The noise stays the picture's own. Raises
    Dalle2EduError for an empty target, a target that says the same as the source, max_theta
    outside (0, 1], fewer than 2 steps and what is no picture."""
    if not target.strip():
        raise Dalle2EduError(
            "The target is empty: say what the picture should become, for example a blue heart."
        )
    if checked_share("max_theta", max_theta) == 0:
        raise Dalle2EduError(
            "max_theta 0 leaves the picture as it is; the paper goes to between 0.25 and 0.5."
        )
    theta = torch.linspace(
        0, max_theta, checked_count("steps", steps, least=2), device=unclip.device
    )
    one = one_picture(image, unclip.image_size)
    direction = words_direction(unclip, source, target)
    latent = invert(unclip, one, decoder_steps, guidance_scale, progress)
    return decode(
        unclip,
        slerp(latent.z_i.expand(steps, -1), direction.expand(steps, -1), theta),
        latent.x_T.expand(steps, -1, -1, -1),
        seed=seed,
        guidance_scale=guidance_scale,
        decoder_steps=decoder_steps,
        upsampler_steps=upsampler_steps,
        return_stages=return_stages,
        progress=progress,
    )


@torch.no_grad()
def inpaint(
    unclip: UnCLIP,
    image: Picture,
    mask: Picture,
    prompt: str,
    n: int = 1,
    seed: int = 0,
    guidance_scale: float = 2.0,
    prior_steps: int = 25,
    decoder_steps: int = 50,
    upsampler_steps: int = 10,
    jump: int = JUMP,
    resamples: int = RESAMPLES,
    progress: bool = True,
    how: How | None = None,
) -> Tensor:
    """n pictures, (n, 3, 128, 128), in which the masked part is painted anew and every other
    pixel is unchanged.

    mask is True (in a file: white) where to paint; prompt says what the whole picture shall be
    of. image and mask must have the same proportions; both are brought to the pipeline's size
    first, and "unchanged" speaks of that picture. Picture i has the seed `seed` + i. how:
    "finetuned" shows the known part to the decoder and the upsamplers that were taught to
    inpaint, and is the default where there is such a decoder; "replace" puts it in place at
    each step, with RePaint's jump and resamples (see `text2image.inpainting`). An all-white
    mask keeps nothing. Raises Dalle2EduError for one that is all black, an empty prompt, n
    below 1, what is no picture, and "finetuned" where nothing was."""
    how = checked_how(unclip, how)
    n = checked_count("n", n)
    text = unclip.encode_text(checked_prompts([prompt] * n, unclip.tokenizer))
    check_same_shape(size_of(image), size_of(mask))
    hole = as_mask(mask, unclip.image_size).to(unclip.device)
    known = one_picture(image, unclip.image_size).to(unclip.device).expand(n, -1, -1, -1)
    run = Run([seed + i for i in range(n)], unclip.device, progress)
    z_i = nearest_to_text(unclip.draw_embeddings(text, run, prior_steps), text.text_emb)
    side = unclip.decoder.config.unet.image_size
    small, small_hole = resize(known, side), cover(hole, side)
    if how == "finetuned":
        denoiser, resamples = shown(unclip, z_i, text, small, small_hole, guidance_scale), 1
    else:
        denoiser = unclip.denoiser(z_i, text, guidance_scale)
    picture = repaint(
        denoiser,
        unclip.decoder_process.respace(decoder_steps),
        small,
        small_hole,
        run.noise("decoder"),
        jump,
        resamples,
        progress=run.label("decoder"),
    )
    for upsampler in finer(unclip, how):
        picture = inpaint_detail(upsampler, picture, known, hole, run, upsampler_steps)
    return picture


def checked_how(unclip: UnCLIP, how: How | None) -> How:
    """The way to inpaint: what was asked for, or else the best that there is."""
    if how not in (None, "replace", "finetuned"):
        raise Dalle2EduError(
            f"There is no way to inpaint called {how!r}: choose replace or finetuned."
        )
    if how == "finetuned" and unclip.inpaint_decoder is None:
        raise Dalle2EduError(
            "There is no decoder that was taught to inpaint (and reads this CLIP): train and"
            " publish the recipe emoji-inpaint or shapes-inpaint, or inpaint by replacing."
        )
    return how or ("replace" if unclip.inpaint_decoder is None else "finetuned")


def shown(
    unclip: UnCLIP,
    z_i: Tensor,
    text: TextEncoding,
    known: Tensor,
    hole: Tensor,
    guidance_scale: float,
) -> Denoiser:
    """The inpaint decoder, closed over what it paints and the known part (B, 3, S, S) that it
    sees around the hole.
    """
    model = unclip.inpaint_decoder
    assert model is not None
    seen = {"known": known, "hole": hole.expand(len(known), -1, -1, -1)}
    text, null = without_padding(text, unclip.encode_text([""] * len(z_i)))
    given = model.decoder.read(z_i, **text.as_conditioning())
    empty = model.decoder.read(model.null_image_emb.expand_as(z_i), **null.as_conditioning())
    return classifier_free(model.denoise, guidance_scale, {**empty, **seen}, {**given, **seen})


def finer(unclip: UnCLIP, how: How) -> Sequence[Upsampler | InpaintUpsampler]:
    """The upsamplers for painting: those that were taught to, where they are there and asked
    for.
    """
    taught = {
        each.config.unet.image_size: each
        for each in unclip.inpaint_upsamplers
        if how == "finetuned"
    }
    return [taught.get(each.config.unet.image_size, each) for each in unclip.upsamplers]


def inpaint_detail(
    upsampler: Upsampler | InpaintUpsampler,
    low_res: Tensor,
    known: Tensor,
    hole: Tensor,
    run: Run,
    steps: int,
) -> Tensor:
    """One upsampler over a painted picture: low_res (B, 3, S, S) -> (B, 3, 2S, 2S).

    The upsampler diffuses detail, so the known detail is put in place at each step: what the
    known pixels have beyond the enlarged low_res, which near the hole is partly new. One that
    was taught to inpaint sees it as well, and need not go back up. A last step sets the known
    pixels themselves, since detail and back is exact only up to rounding."""
    side = upsampler.config.unet.image_size
    known, hole, name = resize(known, side), cover(hole, side), f"upsampler_{side}"
    taught = isinstance(upsampler, InpaintUpsampler)
    seen = {"known": known, "hole": hole.expand(len(known), -1, -1, -1)} if taught else {}
    detail = repaint(
        lambda x_t, t: upsampler(x_t, t, low_res, **seen),
        upsampler_diffusion(upsampler.config).respace(steps),
        to_detail(known, low_res),
        hole,
        run.noise(name),
        jump=1,
        resamples=1 if taught else 2,
        eta=0.0,
        clip=DETAIL_CLIP,
        progress=run.label(name),
    )
    return torch.where(hole, from_detail(detail, low_res), known)


# --- small things -----------------------------------------------------------------------------


@torch.no_grad()
def embed(unclip: UnCLIP, image: Picture) -> Tensor:
    """z_i: a picture's CLIP embedding, or a batch's, (B, D)."""
    return unclip.clip.encode_image(as_pictures(image, unclip.image_size).to(unclip.device))


@torch.no_grad()
def words_direction(unclip: UnCLIP, source: str, target: str) -> Tensor:
    """z_d, (1, D), from the source's words to the target's; without a source just the target's
    embedding.
    """
    old, new = unclip.encode_text([source, target]).text_emb.split(1)
    return text_direction(new, old if source.strip() else None)


def between(pair: Tensor, share: Tensor) -> Tensor:
    """The arc from pair[0] to pair[1] at N shares: (2, ...) and (N,) -> (N, ...)."""
    first, second = (end.expand(len(share), *end.shape) for end in pair)
    return slerp(first, second, share)


def checked_share(name: str, value: float) -> float:
    """A number from 0 to 1; raises Dalle2EduError for any other."""
    if not 0 <= value <= 1:
        raise Dalle2EduError(f"{name} goes from 0 to 1; {value} lies outside.")
    return value
