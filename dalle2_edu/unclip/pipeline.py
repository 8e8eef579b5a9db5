"""unCLIP assembled: a prompt becomes a picture through every stage of DALL·E 2.

    prompt --tokenizer--> tokens --CLIP--> text embedding --prior--> image embedding
           --decoder--> 32 x 32 --upsampler--> 64 x 64 --upsampler--> 128 x 128

    P(x | y) = P(x, z | y) = P(x | z, y) P(z | y)         unCLIP (arXiv 2204.06125), section 2

The first equality holds because z, the image embedding, is a function of x; the second is the chain rule. The prior is
P(z | y), the decoder with its upsamplers P(x | z, y).

Every picture has a seed of its own, and every stage draws from a stream of its own, made from that seed. So the same
prompt and seed give the same picture alone, in a batch, or beside other prompts.

Chapter 18 uses this file; chapter 01 tours it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data import emoji, grammar
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.samplers import SeededNoise, ancestral_sample, ddim_sample
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip, TextEncoding
from dalle2_edu.unclip.decoder import Decoder, decoder_diffusion
from dalle2_edu.unclip.prior import DiffusionPrior, nearest_to_text, prior_diffusion
from dalle2_edu.unclip.upsampler import Upsampler, from_detail, upsample, upsampler_diffusion

CANDIDATES = 2  # embeddings drawn per picture, of which the one nearer to the text is kept (section 2.2)
PRIOR_CLIP = 5.0  # a standardised embedding's numbers lie well inside +-5; diffusers uses the same bound

# What a caller may watch: (stage, step, guess of the stage's clean result). Stages: prior, decoder, upsampler_64, ...
Watcher = Callable[[str, int, Tensor], object]


@dataclass(frozen=True)
class Stages:
    """Everything between the prompts and the pictures, for looking at.

    prompts and pieces (the tokens as text), B each; text_emb, image_emb (B, D) and candidates (B, 2, D) in CLIP's
    space; pictures: what the decoder and each upsampler drew, smallest first, each (B, 3, S, S) in [-1, 1].
    """

    prompts: list[str]
    pieces: list[list[str]]
    text_emb: Tensor
    candidates: Tensor
    image_emb: Tensor
    pictures: list[Tensor]

    @property
    def images(self) -> Tensor:
        """The final pictures, (B, 3, S, S) in [-1, 1]."""
        return self.pictures[-1]


class UnCLIP:
    """The five networks and the tokenizer, put together."""

    def __init__(
        self, clip: Clip, prior: DiffusionPrior, decoder: Decoder, upsamplers: Sequence[Upsampler], tokenizer: Tokenizer
    ):
        self.clip, self.prior, self.decoder, self.upsamplers = clip, prior, decoder, list(upsamplers)
        self.tokenizer = tokenizer
        self.device = next(decoder.parameters()).device

    @classmethod
    def from_zoo(cls, domain: str, device: str | torch.device = "cpu") -> UnCLIP:
        """The shipped miniature that draws "shapes" or "emoji". Raises Dalle2EduError for another name."""
        if domain not in ("shapes", "emoji"):
            raise Dalle2EduError(f"No miniature draws {domain!r}; known: shapes, emoji.")
        check_same_clip(domain)
        shared = [zoo.load("shared", part, device) for part in ("clip", "upsampler_64", "upsampler_128")]
        own = [zoo.load(domain, part, device) for part in ("prior", "decoder")]
        return cls(shared[0], own[0], own[1], shared[1:], default_tokenizer())

    @torch.no_grad()
    def text_to_image(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] = 0,
        guidance_scale: float = 2.0,
        prior_steps: int = 25,
        decoder_steps: int = 25,
        upsampler_steps: int = 10,
        return_stages: bool = False,
        progress: bool = True,
        callback: Watcher | None = None,
    ) -> Any:
        """Prompts, Chinese or English -> pictures, Tensor (B, 3, 128, 128) in [-1, 1]; with return_stages a `Stages`.

        seed is one for all pictures or one each. guidance_scale guides the decoder (1 is off; the paper found
        that guiding the prior hurts, section 5.5). The steps are those of each stage's sampler. progress shows a
        bar a stage; callback(stage, step, guess) is called after each step of each stage.

        Raises Dalle2EduError for an empty prompt or a wrong number of seeds; warns when a prompt is too long for the
        context, saying what was cut.
        """
        prompts, seeds = checked_prompts(prompts, self.tokenizer), checked_seeds(seed, len(prompts))
        run = Run(seeds, self.device, progress, callback)
        text = self.encode_text(prompts)
        candidates = self.draw_embeddings(text, run, prior_steps)
        image_emb = nearest_to_text(candidates, text.text_emb)
        pictures = [self.decode(image_emb, text, run, decoder_steps, guidance_scale)]
        for upsampler in self.upsamplers:
            pictures.append(self.upsample(upsampler, pictures[-1], run, upsampler_steps))
        if not return_stages:
            return pictures[-1]
        pieces = [self.tokenizer.pieces(prompt) for prompt in prompts]
        return Stages(prompts, pieces, text.text_emb, candidates, image_emb, pictures)

    def encode_text(self, prompts: Sequence[str]) -> TextEncoding:
        """What CLIP reads in B prompts; "" is the null text."""
        return self.clip.encode_text(self.tokenizer(prompts).to(self.device))

    def null_text(self, n: int) -> dict[str, Tensor]:
        """The empty text's encoding, n times, as conditioning."""
        return self.encode_text([""] * n).as_conditioning()

    def draw_embeddings(self, text: TextEncoding, run: Run, steps: int) -> Tensor:
        """CANDIDATES image embeddings for each text: (B, CANDIDATES, D) in CLIP's space."""
        diffusion = prior_diffusion().respace(steps)
        conditioning = text.as_conditioning()
        drawn = []
        for i in range(CANDIDATES):
            noise = run.noise(f"prior {i}")
            z = ancestral_sample(
                lambda z_t, t: self.prior(z_t, t, **conditioning),
                diffusion,
                noise(text.text_emb.shape),
                noise,
                clip=PRIOR_CLIP,
                callback=run.watch("prior"),
                progress=run.label(f"prior {i + 1}/{CANDIDATES}"),
            )
            drawn.append(self.prior.unstandardise(z))
        return torch.stack(drawn, dim=1)

    def decode(self, image_emb: Tensor, text: TextEncoding, run: Run, steps: int, guidance_scale: float) -> Tensor:
        """Image embeddings (B, D) and texts -> pictures at the decoder's size, (B, 3, 32, 32)."""
        given = {"image_emb": image_emb, **text.as_conditioning()}
        empty = {"image_emb": self.decoder.null_image_emb.expand_as(image_emb), **self.null_text(len(image_emb))}
        side, noise = self.decoder.config.unet.image_size, run.noise("decoder")
        return ddim_sample(
            classifier_free(self.decoder, guidance_scale, empty, given),
            decoder_diffusion().respace(steps),
            noise((len(image_emb), 3, side, side)),
            noise,
            callback=run.watch("decoder"),
            progress=run.label("decoder"),
        )

    def upsample(self, upsampler: Upsampler, low_res: Tensor, run: Run, steps: int) -> Tensor:
        """Pictures (B, 3, S, S) -> (B, 3, 2S, 2S). The caller's callback sees the detail put onto the small picture."""
        side = upsampler.config.unet.image_size
        name = f"upsampler_{side}"
        return upsample(
            upsampler,
            upsampler_diffusion(upsampler.config).respace(steps),
            low_res,
            run.noise(name),
            callback=run.watch(name, lambda detail: from_detail(detail, low_res)),
            progress=run.label(name),
        )


@dataclass(frozen=True)
class Run:
    """One call's seeds, and who is watching."""

    seeds: list[int]
    device: torch.device
    progress: bool = False
    callback: Watcher | None = None

    def noise(self, stream: str) -> SeededNoise:
        """A stage's own stream of noise: drawing more in one stage changes nothing in the next."""
        own = [blake2b(f"{stream} {seed}".encode(), digest_size=7).digest() for seed in self.seeds]
        return SeededNoise([int.from_bytes(digest, "big") for digest in own], self.device)

    def watch(
        self, stage: str, finish: Callable[[Tensor], Tensor] = lambda guess: guess
    ) -> Callable[[int, Tensor, Tensor], object] | None:
        """The caller's callback, told which stage it watches; `finish` makes the guess a picture. None if nobody
        does.
        """
        callback = self.callback
        return None if callback is None else lambda step, x_t, guess: callback(stage, step, finish(guess))

    def label(self, stage: str) -> str | None:
        """The progress bar's label, None for no bar."""
        return stage if self.progress else None


def check_same_clip(domain: str) -> None:
    """Raise unless the domain's prior and decoder learned the embeddings of the CLIP that is in the zoo."""
    cards = zoo.cards()
    for part in ("prior", "decoder"):
        card, clip = cards.get((domain, part)), cards.get(("shared", "clip"))
        if card and clip and card.clip != clip.sha256:
            raise Dalle2EduError(
                f"The zoo's {domain} {part} learned from another CLIP ({card.clip[:12]}) than the zoo's "
                f"({clip.sha256[:12]}): train and publish {domain}-{part} again."
            )


def checked_prompts(prompts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The prompts as a list; raises for none, a bare string or an empty one, warns about what does not fit."""
    if isinstance(prompts, str):
        raise Dalle2EduError(f"Give a list of prompts, [{prompts!r}], not a single string.")
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise Dalle2EduError("The prompt is empty: say what to draw, for example rocket or 火箭.")
    for prompt in prompts:
        if cut := tokenizer.cut(prompt):
            message = f"The prompt is too long for {tokenizer.context_length} tokens; cut off: {cut!r}"
            warnings.warn(message, stacklevel=4)  # the caller's line: above are text_to_image and its no_grad
    return list(prompts)


def checked_seeds(seed: SupportsIndex | Sequence[int], n: int) -> list[int]:
    """One seed a picture."""
    seeds = [operator.index(each) for each in ([seed] * n if isinstance(seed, SupportsIndex) else seed)]
    if len(seeds) != n:
        raise Dalle2EduError(f"{n} prompts need one seed, or {n}; there are {len(seeds)}.")
    return seeds


def pick_domain(prompt: str) -> str:
    """Which miniature knows what the prompt speaks of: "emoji" for an emoji's exact caption, "shapes" for a word of the
    shapes' world, otherwise "emoji".
    """
    wanted = prompt.strip().lower()
    if any(wanted in each.captions for each in emoji.load()):
        return "emoji"
    return "shapes" if grammar.speaks_of_shapes(wanted) else "emoji"
