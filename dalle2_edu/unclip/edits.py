r"""Edits: variations, blends and text diffs, what DALL·E 2 does with a picture that you
bring.

All of them turn the picture into its bipartite latent (z_i, x_T), change the one half
or the other, and decode again. unCLIP (arXiv 2204.06125), section 3:

    variations   the same z_i; fresh noise in each step when it is decoded: eta > 0      section 3.1
    interpolate  z_i along the arc to another picture's; x_T as well, or one for all     section 3.2
    text_diff    z_i part of the way to where the words lead, x_T kept                   section 3.3

So an edit is a function from latents to latents, and knows no network. `UnCLIP.invert`
makes the latent, `UnCLIP.decode` paints it:

    latent = unclip.invert("cat.png")
    pictures = unclip.decode(variations(latent, n=4), eta=1.0)                     # (4, 3, 128, 128)
    pictures = unclip.decode(interpolate(latent, unclip.invert("rocket.png"), steps=7))
    words = unclip.words_direction("cat", "cat with sunglasses")
    pictures = unclip.decode(text_diff(latent, words, steps=6))

`latents` has the mathematics. Inpainting, which paints only a part of a picture, is in
`inpainting`.

Chapter 19 uses this file.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dalle2_edu.drawing.run import checked_count
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.latents import Latent, slerp


def variations(latent: Latent, n: int = 4) -> Latent:
    """One picture's latent n times: decoded with eta > 0, n other pictures of the same
    thing.

    What CLIP saw stays, the rest is drawn again: the more, the larger eta. With eta = 0
    all n are the picture itself. Raises Dalle2EduError for n below 1 and for several
    pictures.
    """
    # n views of one latent: only the noise of eta > 0 tells them apart
    n = checked_count("n", n)
    check_single(latent)
    return repeated(latent, n)


def interpolate(
    first: Latent, second: Latent, *, steps: int = 7, x_T: Tensor | None = None
) -> Latent:
    """A blend of two pictures in `steps` pictures; both ends are the pictures
    themselves.

    The noise goes along the arc between the two pictures' noises. Or x_T (1, 3, S, S)
    serves all steps, so that only the meaning changes: `UnCLIP.draw_noise([0])` makes
    one. Two equal latents give that picture in every step, and a warning. Raises
    Dalle2EduError for fewer than 2 steps and for several pictures.
    """
    check_single(first)
    check_single(second)
    same_meaning = torch.equal(first.z_i, second.z_i)
    same_noise = torch.equal(first.x_T, second.x_T)
    if same_meaning and same_noise:
        warnings.warn(
            "The two pictures are the same: every step of the blend shows it again.",
            stacklevel=2,
        )
    n = checked_count("steps", steps, least=2)  # both ends, at least
    theta = torch.linspace(0, 1, n, device=first.z_i.device)  # (n,)
    embeddings = torch.cat([first.z_i, second.z_i])  # (2, D)
    z_i = between(embeddings, theta)  # (n, D)
    if x_T is None:
        both = torch.cat([first.x_T, second.x_T])  # (2, 3, S, S)
        noises = between(both, theta)  # (n, 3, S, S)
    else:
        noises = x_T.expand(n, -1, -1, -1)  # (1, 3, S, S) => (n, 3, S, S)
    return Latent(z_i, noises)


def text_diff(
    latent: Latent, direction: Tensor, *, steps: int = 6, max_theta: float = 0.4
) -> Latent:
    """A picture turned step by step towards what words say: its z_i moves along the
    arc to the direction z_d (1, D), its noise stays.

    `UnCLIP.words_direction` makes z_d. theta rises evenly from 0, the picture itself,
    to max_theta; the paper ends between 0.25 and 0.5, and at 1 nothing of the picture's
    own meaning would be left. Raises Dalle2EduError for max_theta outside (0, 1], fewer
    than 2 steps and several pictures.
    """
    check_single(latent)
    if not 0 < max_theta <= 1:
        raise Dalle2EduError(
            f"max_theta lies above 0, which changes nothing, and goes up to 1; not {max_theta}."
            " The paper goes to between 0.25 and 0.5."
        )
    n = checked_count("steps", steps, least=2)
    device = latent.z_i.device
    theta = torch.linspace(0, max_theta, n, device=device)  # (n,), from the picture on
    kept = repeated(latent, n)  # (n, D) and (n, 3, S, S)
    target = direction.expand(n, -1)  # z_d, (n, D)
    z_i = slerp(kept.z_i, target, theta)  # (n, D)
    return Latent(z_i, kept.x_T)  # one x_T: pose and place stay


# --- small parts ----------------------------------------------------------------------


def repeated(latent: Latent, n: int) -> Latent:
    """One picture's latent n times: (1, D) => (n, D), (1, 3, S, S) => (n, 3, S, S)."""
    z_i = latent.z_i.expand(n, -1)
    x_T = latent.x_T.expand(n, -1, -1, -1)
    return Latent(z_i, x_T)


def between(pair: Tensor, theta: Tensor) -> Tensor:
    """n points on the arc from pair[0] to pair[1]: (2, ...) and theta (n,) -> (n,
    ...).
    """
    shape = (len(theta), *pair.shape[1:])  # (n, ...)
    first = pair[0].expand(shape)
    second = pair[1].expand(shape)
    return slerp(first, second, theta)


def check_single(latent: Latent) -> None:
    """Raise Dalle2EduError unless this is the latent of one picture."""
    if len(latent.z_i) != 1:
        raise Dalle2EduError(
            f"Give the latent of one picture, not of {len(latent.z_i)}."
        )
