"""unCLIP assembled: a prompt becomes a picture through every stage of DALL·E 2.

    prompt --tokenizer--> tokens --CLIP--> text embedding --prior--> image embedding
           --decoder--> 32 x 32 --upsampler--> 64 x 64 --upsampler--> 128 x 128

    P(x | y) = P(x, z | y) = P(x | z, y) P(z | y)         unCLIP (arXiv 2204.06125), section 2

The first equality holds because z, the image embedding, is a function of x; the second is the
chain rule. The prior is P(z | y), the decoder with its upsamplers P(x | z, y).

`text_to_image` is that way; the other way in, from a picture, is in `edits`. The prior may be
the diffusion prior, the autoregressive one, or a plain regression that is none:
`evaluation.trial` compares them.

Chapter 18 uses this file; chapter 01 tours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.diffusion.analytic import (
    AnalyticDiffusion,
    noise_second_moment,
    optimal_variance,
)
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import Denoiser, ancestral_sample, ddim_sample
from dalle2_edu.drawing.run import (
    Run,
    SeededNoise,
    Watcher,
    checked_count,
    checked_prompts,
    checked_seeds,
)
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip, TextEncoding, without_padding
from dalle2_edu.unclip import edits
from dalle2_edu.unclip.ar_prior import ARPrior
from dalle2_edu.unclip.decoder import Decoder, decoder_diffusion
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.prior import DiffusionPrior, nearest_to_text, prior_diffusion
from dalle2_edu.unclip.regression import RegressionPrior
from dalle2_edu.unclip.upsampler import Upsampler, from_detail, upsample, upsampler_diffusion

CANDIDATES = (
    2  # embeddings drawn per picture, of which the one nearer to the text is kept (section 2.2)
)
PRIOR_CLIP = (
    5.0  # a standardised embedding's numbers lie well inside +-5; diffusers uses the same bound
)
Prior = DiffusionPrior | ARPrior | RegressionPrior
PriorKind = Literal["prior", "ar_prior", "regression"]  # their names in the zoo


@dataclass(frozen=True)
class Stages:
    """Everything between the prompts and the pictures, for looking at.

    prompts, pieces (the tokens as text) and seeds, B each; text_emb, image_emb (B, D) and
    candidates (B, 2, D) in CLIP's space (of another prior than the diffusion prior there is one
    candidate); pictures: what the decoder and each upsampler drew, smallest first, each (B, 3,
    S, S) in [-1, 1]."""

    prompts: list[str]
    pieces: list[list[str]]
    text_emb: Tensor
    candidates: Tensor
    image_emb: Tensor
    pictures: list[Tensor]
    seeds: list[int] = field(default_factory=list)

    @property
    def images(self) -> Tensor:
        """The final pictures, (B, 3, S, S) in [-1, 1]."""
        return self.pictures[-1]

    def pick(self, places: list[int]) -> Stages:
        """The same of the pictures at these places only."""
        return Stages(
            prompts=[self.prompts[i] for i in places],
            pieces=[self.pieces[i] for i in places],
            text_emb=self.text_emb[places],
            candidates=self.candidates[places],
            image_emb=self.image_emb[places],
            pictures=[each[places] for each in self.pictures],
            seeds=[self.seeds[i] for i in places],
        )


class UnCLIP:
    """The five networks and the tokenizer, put together; the inpaint decoder and upsamplers are
    their twins that were taught to inpaint.
    """

    def __init__(
        self,
        clip: Clip,
        prior: Prior,
        decoder: Decoder,
        upsamplers: Sequence[Upsampler],
        tokenizer: Tokenizer,
        inpaint_decoder: InpaintDecoder | None = None,
        inpaint_upsamplers: Sequence[InpaintUpsampler] = (),
    ):
        self.clip, self.prior, self.decoder, self.upsamplers = (
            clip,
            prior,
            decoder,
            list(upsamplers),
        )
        self.tokenizer = tokenizer
        self.inpaint_decoder, self.inpaint_upsamplers = (
            inpaint_decoder,
            list(inpaint_upsamplers),
        )
        self.decoder_process = (
            decoder_diffusion()
        )  # how the decoder was trained; the ways back are respaced from it
        self.device = next(decoder.parameters()).device

    @classmethod
    def from_zoo(
        cls, domain: str, device: str | torch.device = "cpu", prior: PriorKind = "prior"
    ) -> UnCLIP:
        """The zoo's miniature that draws "shapes", "emoji" or a domain of your own, with the
        diffusion prior or one of its rivals.

        Raises Dalle2EduError for another name, and for a part that the zoo lacks; only those
        that were taught to inpaint may be missing."""
        drawn = [name for name, parts in zoo.known().items() if "decoder" in parts]
        if drawn and domain not in drawn:
            raise Dalle2EduError(f"No miniature draws {domain!r}; known: {', '.join(drawn)}.")
        if prior not in get_args(PriorKind):
            raise Dalle2EduError(
                f"There is no prior {prior!r}; known: {', '.join(get_args(PriorKind))}."
            )
        zoo.check_same_clip(domain, (prior, "decoder"))
        shared = [
            zoo.load("shared", part, device)
            for part in ("clip", "upsampler_64", "upsampler_128")
        ]
        own = [zoo.load(domain, part, device) for part in (prior, "decoder")]
        painter = (
            zoo.load(domain, "inpaint_decoder", device)
            if zoo.fits(domain, "inpaint_decoder")
            else None
        )
        finer = [
            part
            for part in ("inpaint_upsampler_64", "inpaint_upsampler_128")
            if ("shared", part) in zoo.cards()
        ]
        painters = [zoo.load("shared", part, device) for part in finer]
        return cls(
            shared[0], own[0], own[1], shared[1:], default_tokenizer(), painter, painters
        )

    @staticmethod
    def from_karlo(source: str | Path, **how: Any) -> UnCLIP:
        """The released Karlo, 64 -> 256 pixels, with 25 + 25 + 7 steps: see
        `interop.karlo.load_karlo`.
        """
        from dalle2_edu.interop.karlo import (
            load_karlo,
        )  # here, since interop knows the models and not they it

        return load_karlo(source, **how)

    @torch.no_grad()
    def text_to_image(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] = 0,
        guidance_scale: float = 2.0,
        prior_steps: int = 25,
        decoder_steps: int = 25,
        upsampler_steps: int = 10,
        best_of: int = 1,
        return_stages: bool = False,
        progress: bool = True,
        callback: Watcher | None = None,
        prior_process: GaussianDiffusion | None = None,
        prior_guidance: float = 1.0,
    ) -> Any:
        """Prompts, Chinese or English -> pictures, Tensor (B, 3, 128, 128) in [-1, 1]; with
        return_stages a `Stages`.

        seed is one for all pictures or one each. guidance_scale guides the decoder,
        prior_guidance the prior (1 is off; the paper found that guiding the prior hurts,
        section 5.5). The steps are those of each stage's sampler. best_of draws so many
        pictures for each prompt, with the seeds seed, seed + 1, ..., and keeps the one that
        CLIP finds nearest to the prompt. progress shows a bar a stage; callback(stage, step,
        guess) is called after each step of each stage. prior_process replaces the prior's way
        back, of prior_steps: `analytic_prior` makes one.

        Raises Dalle2EduError for an empty prompt, a wrong number of seeds or best_of below 1;
        warns when a prompt is too long for the context, saying what was cut."""
        prompts, seeds = (
            checked_prompts(prompts, self.tokenizer),
            checked_seeds(seed, len(prompts)),
        )
        tries = range(checked_count("best_of", best_of))
        prompts, seeds = (
            [prompt for prompt in prompts for _ in tries],
            [own + i for own in seeds for i in tries],
        )
        run = Run(seeds, self.device, progress, callback)
        text = self.encode_text(prompts)
        candidates = self.draw_embeddings(text, run, prior_steps, prior_process, prior_guidance)
        image_emb = nearest_to_text(candidates, text.text_emb)
        pictures = self.enlarge(
            self.paint(image_emb, text, run, decoder_steps, guidance_scale),
            run,
            upsampler_steps,
        )
        pieces = [self.tokenizer.pieces(prompt) for prompt in prompts]
        stages = Stages(prompts, pieces, text.text_emb, candidates, image_emb, pictures, seeds)
        if best_of > 1:
            stages = stages.pick(
                best_places(self.clip_scores(stages.images, text.text_emb), best_of)
            )
        return stages if return_stages else stages.images

    # What starts from a picture; a function that stands in a class is a method, its first
    # argument the UnCLIP.
    invert = edits.invert
    decode = edits.decode
    variations = edits.variations
    interpolate = edits.interpolate
    text_diff = edits.text_diff
    inpaint = edits.inpaint

    @property
    def image_size(self) -> int:
        """Side of the final pictures."""
        return (self.upsamplers[-1] if self.upsamplers else self.decoder).config.unet.image_size

    def decoder_shape(self, n: int) -> tuple[int, int, int, int]:
        """The shape of the decoder's noise and pictures, for n of them."""
        side = self.decoder.config.unet.image_size
        return n, 3, side, side

    def encode_text(self, prompts: Sequence[str]) -> TextEncoding:
        """What CLIP reads in B prompts; "" is the null text."""
        return self.clip.encode_text(self.tokenizer(prompts).to(self.device))

    @torch.no_grad()
    def analytic_prior(
        self, image_emb: Tensor, captions: Sequence[str], prior_steps: int = 25, seed: int = 0
    ) -> GaussianDiffusion:
        """The prior's way back in prior_steps steps with the variances that are best on these
        pairs; Analytic-DPM.

        image_emb (N, D) are CLIP embeddings of pictures with N captions. For
        `text_to_image(prior_process=...)`."""
        if len(image_emb) != len(captions) or not captions:
            raise Dalle2EduError(
                f"There must be one caption for each embedding: {len(image_emb)} and"
                f" {len(captions)}."
            )
        prior = self.prior
        if not isinstance(prior, DiffusionPrior):
            raise Dalle2EduError(
                "Only the diffusion prior has a way back whose variances could be chosen."
            )
        process, text = (
            prior_diffusion().respace(prior_steps),
            self.encode_text(captions).as_conditioning(),
        )
        noise = SeededNoise([seed + i for i in range(len(captions))], self.device)
        z = prior.standardise(image_emb.to(self.device))
        moment = noise_second_moment(
            [(lambda z_t, t: prior(z_t, t, **text), z, noise)], process, PRIOR_CLIP
        )
        return AnalyticDiffusion(process, optimal_variance(process, moment))

    def clip_scores(self, images: Tensor, text_emb: Tensor) -> Tensor:
        """How near CLIP finds each picture (B, 3, S, S) to its text's embedding (B, D):
        cosines, (B,).
        """
        return torch.einsum("bd,bd->b", self.clip.encode_image(images), text_emb)

    def draw_embeddings(
        self,
        text: TextEncoding,
        run: Run,
        steps: int,
        process: GaussianDiffusion | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Image embeddings for each text, in CLIP's space: the diffusion prior draws
        CANDIDATES, (B, CANDIDATES, D), another one, (B, 1, D). steps and process are the
        diffusion prior's.
        """
        prior, null = self.prior, self.encode_text([""] * len(text.text_emb))
        if not isinstance(prior, DiffusionPrior):
            return prior.draw_embeddings(text, null, run, guidance_scale)
        text, null = without_padding(text, null)
        diffusion = process or prior_diffusion().respace(steps)
        denoiser = classifier_free(
            prior, guidance_scale, null.as_conditioning(), text.as_conditioning()
        )
        drawn = []
        for i in range(CANDIDATES):
            noise = run.noise(f"prior {i}")
            z = ancestral_sample(
                denoiser,
                diffusion,
                noise(text.text_emb.shape),
                noise,
                clip=PRIOR_CLIP,
                callback=run.watch("prior"),
                progress=run.label(f"prior {i + 1}/{CANDIDATES}"),
            )
            drawn.append(prior.unstandardise(z))
        return torch.stack(drawn, dim=1)

    def denoiser(
        self, image_emb: Tensor, text: TextEncoding, guidance_scale: float
    ) -> Denoiser:
        """The decoder closed over what it paints: image embeddings (B, D) and texts, guided."""
        text, null = without_padding(text, self.encode_text([""] * len(image_emb)))
        given = self.decoder.read(image_emb, **text.as_conditioning())
        empty = self.decoder.read(
            self.decoder.null_image_emb.expand_as(image_emb), **null.as_conditioning()
        )
        return classifier_free(self.decoder.denoise, guidance_scale, empty, given)

    def paint(
        self,
        image_emb: Tensor,
        text: TextEncoding,
        run: Run,
        steps: int,
        guidance_scale: float,
        x_T: Tensor | None = None,
        eta: float = 0.0,
    ) -> Tensor:
        """Image embeddings (B, D) and texts -> pictures at the decoder's size, (B, 3, 32, 32);
        x_T from the run's seeds unless it is given.
        """
        noise = run.noise("decoder")
        return ddim_sample(
            self.denoiser(image_emb, text, guidance_scale),
            self.decoder_process.respace(steps),
            noise(self.decoder_shape(len(image_emb))) if x_T is None else x_T,
            noise,
            eta=eta,
            callback=run.watch("decoder"),
            progress=run.label("decoder"),
        )

    def enlarge(self, picture: Tensor, run: Run, steps: int) -> list[Tensor]:
        """The decoder's pictures, and what each upsampler makes of those before: sides 32, 64,
        128.
        """
        pictures = [picture]
        for upsampler in self.upsamplers:
            pictures.append(self.upsample(upsampler, pictures[-1], run, steps))
        return pictures

    def upsample(self, upsampler: Upsampler, low_res: Tensor, run: Run, steps: int) -> Tensor:
        """Pictures (B, 3, S, S) -> (B, 3, 2S, 2S). The caller's callback sees the detail put
        onto the small picture.
        """
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


def best_places(scores: Tensor, best_of: int) -> list[int]:
    """Of scores (B * best_of,), each prompt's one after the other: where each prompt's largest
    stands.
    """
    groups = scores.reshape(-1, best_of)  # (B, best_of)
    return (
        groups.argmax(dim=1) + torch.arange(len(groups), device=scores.device) * best_of
    ).tolist()
