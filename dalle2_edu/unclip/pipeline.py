"""unCLIP assembled: a prompt becomes a picture through every stage of DALL·E 2.

    prompt --tokenizer--> tokens --CLIP--> text embedding --prior--> image embedding
           --decoder--> 32 x 32 --upsampler--> 64 x 64 --upsampler--> 128 x 128

    P(x | y) = P(x, z | y) = P(x | z, y) P(z | y)         unCLIP (arXiv 2204.06125), section 2

The first equality holds because z, the image embedding, is a function of x; the second
is the chain rule. The prior is P(z | y), the decoder with its upsamplers P(x | z, y).

There are two ways in. `text_to_image` starts from a prompt. `invert` starts from a
picture: it finds the latent from which `decode` paints the picture again, and `edits`
changes that latent on the way. The prior may be the diffusion prior, the autoregressive
one, or a regression baseline: `evaluation.trial` compares them.

Chapter 18 uses this file; chapter 01 tours it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data.prompts import read_prompt
from dalle2_edu.data.text import Tokenizer, default_tokenizer
from dalle2_edu.diffusion.analytic import (
    AnalyticDiffusion,
    noise_second_moment,
    optimal_variance,
)
from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.samplers import (
    Denoiser,
    ancestral_sample,
    ddim_invert,
    ddim_sample,
)
from dalle2_edu.drawing.pictures import Picture, as_pictures, resize
from dalle2_edu.drawing.run import (
    Run,
    SeededNoise,
    Watcher,
    checked_count,
    checked_device,
    checked_negative,
    checked_prompts,
    checked_seeds,
    following_seeds,
    frames_inside,
)
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip, TextEncoding, without_padding
from dalle2_edu.unclip.ar_prior import ARPrior
from dalle2_edu.unclip.decoder import Decoder, decoder_diffusion
from dalle2_edu.unclip.inpaint_networks import InpaintDecoder, InpaintUpsampler
from dalle2_edu.unclip.latents import Latent, text_direction
from dalle2_edu.unclip.prior import DiffusionPrior, nearest_to_text, prior_diffusion
from dalle2_edu.unclip.regression import RegressionPrior
from dalle2_edu.unclip.stage import Stage
from dalle2_edu.unclip.upsampler import (
    Upsampler,
    from_detail,
    upsample,
    upsampler_stage,
)

# embeddings drawn for each picture; the one nearer to the text is kept (section 2.2)
CANDIDATES = 2
# a standardised embedding's numbers lie well inside +-5; diffusers uses the same bound
PRIOR_CLIP = 5.0
# Embeddings longer than this are told of; a prior's own lie near CLIP's length, 1.
FAR = 2.0
# of the decoder: inverting a picture takes more of them than drawing one
EDIT_STEPS = 50
Prior = DiffusionPrior | ARPrior | RegressionPrior
PriorKind = Literal["prior", "ar_prior", "regression"]  # their names in the zoo


@dataclass(frozen=True)
class Stages:
    """Everything between the prompts and the pictures, for looking at. B pictures."""

    prompts: list[str]  # B of them
    pieces: list[list[str]]  # each prompt's tokens, as text
    text_emb: Tensor  # (B, D)
    candidates: Tensor  # (B, 2, D) of the diffusion prior, (B, 1, D) of another
    image_emb: Tensor  # (B, D), the candidate that was kept
    pictures: list[Tensor]  # decoder's, then each upsampler's: (B, 3, S, S) in [-1, 1]
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
            pictures=[pictures[places] for pictures in self.pictures],
            seeds=[self.seeds[i] for i in places],
        )


class UnCLIP:
    """The networks and the tokenizer, put together, and a `Stage` for each network that
    says how it is sampled. A stage may be replaced by another.

    The inpainting networks, fine-tuned versions of the decoder and the upsamplers, may
    be missing.
    """

    # what the upsamplers diffuse: detail (here), or pictures (Karlo)
    draws_detail = True

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
        self.clip = clip
        self.prior = prior
        self.decoder = decoder
        self.upsamplers = list(upsamplers)
        self.tokenizer = tokenizer
        self.inpaint_decoder = inpaint_decoder
        self.inpaint_upsamplers = list(inpaint_upsamplers)

        self.prior_stage = Stage(
            prior_diffusion(), ancestral_sample, steps=25, clip=PRIOR_CLIP
        )
        self.decoder_stage = Stage(
            decoder_diffusion(), ddim_sample, steps=25, guidance_scale=2.0
        )
        self.upsampler_stages = [
            upsampler_stage(upsampler.config) for upsampler in self.upsamplers
        ]
        self.candidates = CANDIDATES

        weight = next(decoder.parameters())
        self.device = weight.device
        self.dtype = weight.dtype

    @classmethod
    def from_zoo(
        cls, domain: str, device: str | torch.device = "cpu", prior: PriorKind = "prior"
    ) -> UnCLIP:
        """The zoo's miniature that draws "shapes", "emoji" or a domain of your own,
        with the diffusion prior or one of its rivals.

        Raises Dalle2EduError for another name, a device that PyTorch can't use, and a
        part that the zoo lacks; only the inpainting networks may be missing.
        """
        drawn = [name for name, parts in zoo.known().items() if "decoder" in parts]
        if drawn and domain not in drawn:
            raise Dalle2EduError(
                f"No miniature draws {domain!r}; known: {', '.join(drawn)}."
            )
        if prior not in get_args(PriorKind):
            known = ", ".join(get_args(PriorKind))
            raise Dalle2EduError(f"There is no prior {prior!r}; known: {known}.")
        zoo.check_same_clip(domain, (prior, "decoder"))
        device = checked_device(device)
        inpaint_upsamplers = [
            part
            for part in ("inpaint_upsampler_64", "inpaint_upsampler_128")
            if ("shared", part) in zoo.cards()
        ]
        return cls(
            clip=zoo.load("shared", "clip", device),
            prior=zoo.load(domain, prior, device),
            decoder=zoo.load(domain, "decoder", device),
            upsamplers=[
                zoo.load("shared", "upsampler_64", device),
                zoo.load("shared", "upsampler_128", device),
            ],
            tokenizer=default_tokenizer(),
            inpaint_decoder=(
                zoo.load(domain, "inpaint_decoder", device)
                if zoo.fits(domain, "inpaint_decoder")
                else None
            ),
            inpaint_upsamplers=[
                zoo.load("shared", part, device) for part in inpaint_upsamplers
            ],
        )

    # --- from a prompt ----------------------------------------------------------------

    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        best_of: int = 1,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        prior_steps: int | None = None,
        decoder_steps: int | None = None,
        upsampler_steps: int | None = None,
        progress: bool = True,
        callback: Watcher | None = None,
    ) -> Tensor:
        """Prompts, Chinese or English -> pictures (B, 3, S, S) in [-1, 1]; S is 128 for
        the miniature.

        seed is one for all pictures, or a list with one each. best_of draws so many
        pictures for each prompt, with the seeds seed, seed + 1, ..., and keeps the one
        that CLIP finds nearest to the prompt. guidance_scale guides the decoder; None
        takes its stage's value, and so do the steps. negative_prompt is what guidance
        leads away from, in place of the empty text. progress shows a bar for each
        stage; callback(stage, step, prediction) is called after each step of each
        stage.

        Raises Dalle2EduError for an empty prompt, a wrong number of seeds, steps that
        the process does not have, best_of below 1, and a negative prompt without
        guidance; warns when a prompt is too long for the context, saying what was cut.
        """
        stages = self.stages(
            prompts,
            seed=seed,
            best_of=best_of,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            prior_steps=prior_steps,
            decoder_steps=decoder_steps,
            upsampler_steps=upsampler_steps,
            progress=progress,
            callback=callback,
        )
        return stages.images

    @torch.no_grad()
    def stages(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        best_of: int = 1,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        prior_steps: int | None = None,
        decoder_steps: int | None = None,
        upsampler_steps: int | None = None,
        progress: bool = True,
        callback: Watcher | None = None,
    ) -> Stages:
        """As `text_to_image`, with everything between the prompts and the pictures."""
        tries = checked_count("best_of", best_of)
        prompts = checked_prompts(prompts, self.tokenizer)
        scale = self.decoder_stage.changed(guidance_scale=guidance_scale).guidance_scale
        negative_prompt = checked_negative(negative_prompt, scale, self.tokenizer)
        seeds = checked_seeds(seed, len(prompts))
        prompts = [prompt for prompt in prompts for _ in range(tries)]
        seeds = [first + i for first in seeds for i in range(tries)]
        run = Run(seeds, self.device, progress, callback)

        text = self.encode_text(prompts)  # y
        candidates = self.draw_embeddings(text, run, steps=prior_steps)
        z_i = nearest_to_text(candidates, text.text_emb)  # z ~ P(z | y)
        small = self.paint(
            z_i,
            text,
            run,
            steps=decoder_steps,
            guidance_scale=guidance_scale,
            null=self.encode_text([negative_prompt] * len(prompts)),
        )
        pictures = self.enlarge(small, run, steps=upsampler_steps)  # x ~ P(x | z, y)

        pieces = [self.tokenizer.pieces(prompt) for prompt in prompts]
        stages = Stages(
            prompts, pieces, text.text_emb, candidates, z_i, pictures, seeds
        )
        if tries == 1:
            return stages
        scores = self.clip_scores(stages.images, text.text_emb)
        return stages.pick(best_places(scores, tries))

    def encode_text(self, prompts: Sequence[str]) -> TextEncoding:
        """What CLIP reads in B prompts; "" is the null text."""
        return self.clip.encode_text(self.tokenizer(prompts).to(self.device))

    def draw_embeddings(
        self,
        text: TextEncoding,
        run: Run,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Image embeddings for each text, in CLIP's space: the diffusion prior draws
        `candidates` of them, (B, candidates, D), another prior one, (B, 1, D).

        None takes the values of `prior_stage`; steps are the diffusion prior's.
        """
        stage = self.prior_stage.changed(
            steps=steps, guidance_scale=guidance_scale, name="prior_steps"
        )
        null = self.encode_text([""] * len(text.text_emb))
        prior = self.prior
        if not isinstance(prior, DiffusionPrior):
            return prior.draw_embeddings(text, null, run, stage.guidance_scale)
        text, null = without_padding(text, null)
        denoiser = classifier_free(
            prior, stage.guidance_scale, null.as_conditioning(), text.as_conditioning()
        )
        drawn = []
        for i in range(self.candidates):
            noise = run.noise(f"prior {i}")
            z = stage.sample(
                denoiser,
                noise(text.text_emb.shape).to(text.text_emb.dtype),
                noise,
                callback=run.watch("prior"),
                progress=run.label(f"prior {i + 1}/{self.candidates}"),
            )
            drawn.append(prior.unstandardise(z))
        return torch.stack(drawn, dim=1)  # candidates x (B, D) => (B, candidates, D)

    def denoiser(
        self,
        image_emb: Tensor,
        text: TextEncoding,
        guidance_scale: float,
        null: TextEncoding | None = None,
    ) -> Denoiser:
        """The decoder closed over what it paints: image embeddings (B, D) and texts,
        guided away from `null`, which is the empty text if it is None.
        """
        decoder = self.decoder
        if null is None:
            null = self.encode_text([""] * len(image_emb))
        text, null = without_padding(text, null)
        null_emb = decoder.null_image_emb.expand_as(image_emb)
        # Both are read once: the conditions stay, only x_t and t change from step to
        # step.
        conditioning = decoder.read(image_emb, **text.as_conditioning())
        null_conditioning = decoder.read(null_emb, **null.as_conditioning())
        return classifier_free(
            decoder.denoise, guidance_scale, null_conditioning, conditioning
        )

    def paint(
        self,
        image_emb: Tensor,
        text: TextEncoding,
        run: Run,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        null: TextEncoding | None = None,
        x_T: Tensor | None = None,
        eta: float | None = None,
    ) -> Tensor:
        """Image embeddings (B, D) and texts -> pictures at the decoder's size, (B, 3,
        S, S).

        Guidance leads away from `null`, the empty text if it is None. x_T is drawn from
        the run's seeds unless it is given. An eta asks for DDIM with
        so much fresh noise; None keeps the sampler of `decoder_stage`.
        """
        stage = self.decoder_stage.changed(
            steps=steps, guidance_scale=guidance_scale, name="decoder_steps"
        )
        if eta is not None:
            stage = replace(stage, sampler=partial(ddim_sample, eta=eta))
        noise = run.noise("decoder")
        if x_T is None:
            x_T = noise(self.decoder_shape(len(image_emb)))
        return stage.sample(
            self.denoiser(image_emb, text, stage.guidance_scale, null),
            x_T.to(image_emb.dtype),
            noise,
            callback=run.watch("decoder"),
            progress=run.label("decoder"),
        )

    def enlarge(
        self, picture: Tensor, run: Run, *, steps: int | None = None
    ) -> list[Tensor]:
        """The decoder's pictures (B, 3, S, S), and after them what each upsampler makes
        of those before: sides 32, 64, 128.
        """
        pictures = [picture]
        for place in range(len(self.upsamplers)):
            pictures.append(self.upsample(place, pictures[-1], run, steps=steps))
        return pictures

    def upsample(
        self, place: int, low_res: Tensor, run: Run, *, steps: int | None = None
    ) -> Tensor:
        """One upsampler, counted from 0: pictures (B, 3, S, S) -> (B, 3, 2S, 2S).

        A callback sees the predicted detail already added to the small picture.
        """
        upsampler = self.upsamplers[place]
        name = f"upsampler_{upsampler.config.unet.image_size}"
        return upsample(
            upsampler,
            self.upsampler_stages[place].changed(steps=steps, name="upsampler_steps"),
            low_res,
            run.noise(name),
            callback=run.watch(name, lambda detail: from_detail(detail, low_res)),
            progress=run.label(name),
        )

    def clip_scores(self, images: Tensor, text_emb: Tensor) -> Tensor:
        """How near CLIP finds each picture (B, 3, S, S) to its text's embedding (B, D):
        cosines, (B,).
        """
        return torch.einsum("bd,bd->b", self.clip.encode_image(images), text_emb)

    # --- from a picture ---------------------------------------------------------------

    @torch.no_grad()
    def embed(self, picture: Picture) -> Tensor:
        """z_i: a picture's CLIP embedding, or a batch's, (B, D)."""
        return self.clip.encode_image(self._as_pictures(picture))

    @torch.no_grad()
    def words_direction(self, source: str, target: str) -> Tensor:
        """z_d (1, D): from the source's words to the target's, as a unit vector;
        section 3.3.

        An empty source is no source: the target's embedding is then the direction.
        Raises Dalle2EduError for an empty target, and for one that says the same as the
        source.
        """
        source, target = read_prompt(source), read_prompt(target)
        if not target:
            raise Dalle2EduError(
                "The target is empty: say what the picture should become, for example a blue"
                " heart."
            )
        z_source, z_target = self.encode_text([source, target]).text_emb.split(1)
        return text_direction(z_target, z_source if source else None)

    def draw_noise(self, seeds: Sequence[int]) -> Tensor:
        """x_T to decode from, (B, 3, S, S) for B seeds."""
        seeds = checked_seeds(seeds, len(seeds), of="pictures")
        noise = Run(seeds, self.device).noise("decoder start")
        return noise(self.decoder_shape(len(seeds))).to(self.dtype)

    @torch.no_grad()
    def invert(
        self,
        picture: Picture,
        *,
        decoder_steps: int = EDIT_STEPS,
        guidance_scale: float = 1.0,
        progress: bool = True,
    ) -> Latent:
        """The bipartite latent (z_i, x_T) of a picture, or of a batch of them, as a
        tensor: CLIP's embedding, and DDIM walked backwards through the decoder given
        that embedding.

        Decode it with the same decoder_steps and guidance_scale: more steps give the
        picture back more exactly. The walk clips its predictions just as sampling does:
        both must follow the same curve, and with clipping that curve is the straighter
        one (measured on four emoji, 250 steps: PSNR 49 to 53 dB clipped, 41 to 53 not).
        The latent is that of the decoder's 32 x 32 picture; detail comes from the
        upsamplers. Raises Dalle2EduError for what is no picture.
        """
        pictures = self._as_pictures(picture)
        stage = self.decoder_stage.changed(
            steps=decoder_steps, guidance_scale=guidance_scale, name="decoder_steps"
        )
        z_i = self.clip.encode_image(pictures)
        text = self.encode_text([""] * len(pictures))  # words play no part
        x_T = ddim_invert(
            self.denoiser(z_i, text, guidance_scale),
            stage.process,
            resize(pictures, self.decoder.config.unet.image_size),
            clip=stage.clip,
            progress="inversion" if progress else None,
        )
        return Latent(z_i, x_T)

    def decode(
        self,
        latent: Latent,
        *,
        eta: float | None = 0.0,
        seed: int | Sequence[int] = 0,
        decoder_steps: int = EDIT_STEPS,
        guidance_scale: float = 1.0,
        upsampler_steps: int | None = None,
        progress: bool = True,
    ) -> Tensor:
        """A latent of B pictures -> the pictures, (B, 3, S, S) in [-1, 1].

        eta is the share of fresh noise in each step of DDIM: with 0, x_T alone decides
        the decoder's picture; None takes the sampler of `decoder_stage`. Fresh noise,
        and the upsamplers', comes from the seeds: picture i has seed + i, a list gives
        one each. Raises Dalle2EduError for a latent of another size or type, or that
        holds nan.
        """
        pictures = self.decode_stages(
            latent,
            eta=eta,
            seed=seed,
            decoder_steps=decoder_steps,
            guidance_scale=guidance_scale,
            upsampler_steps=upsampler_steps,
            progress=progress,
        )
        return pictures[-1]

    @torch.no_grad()
    def decode_stages(
        self,
        latent: Latent,
        *,
        eta: float | None = 0.0,
        seed: int | Sequence[int] = 0,
        decoder_steps: int = EDIT_STEPS,
        guidance_scale: float = 1.0,
        upsampler_steps: int | None = None,
        progress: bool = True,
    ) -> list[Tensor]:
        """As `decode`: the decoder's pictures and each upsampler's, smallest first."""
        self._check_latent(latent)
        n = len(latent.z_i)
        run = Run(following_seeds(seed, n, of="latents"), self.device, progress)
        small = self.paint(
            latent.z_i,
            self.encode_text([""] * n),  # words play no part
            run,
            steps=decoder_steps,
            guidance_scale=guidance_scale,
            x_T=latent.x_T,
            eta=eta,
        )
        return self.enlarge(small, run, steps=upsampler_steps)

    def _as_pictures(self, picture: Picture) -> Tensor:
        """Any picture, or a batch as a tensor => (B, 3, S, S) of the pipeline's size
        and type.
        """
        return as_pictures(picture, self.image_size).to(self.device, self.dtype)

    def _check_latent(self, latent: Latent) -> None:
        """Raise Dalle2EduError unless the decoder can paint from this."""
        z_i, x_T = latent.z_i, latent.x_T
        width = self.decoder.config.clip_dim
        if z_i.dim() != 2 or z_i.shape[1] != width:
            raise Dalle2EduError(
                f"The decoder paints from embeddings (B, {width}), not {tuple(z_i.shape)}."
            )
        expected = self.decoder_shape(len(z_i))
        if x_T.shape != expected:
            raise Dalle2EduError(
                f"{len(z_i)} embeddings need noise of shape {expected}, not {tuple(x_T.shape)}."
            )
        for name, tensor in (("embeddings are", z_i), ("noise is", x_T)):
            if tensor.dtype != self.dtype:
                raise Dalle2EduError(
                    f"The {name} {tensor.dtype}, but this pipeline computes in {self.dtype}:"
                    " convert with .to(unclip.dtype)."
                )
            if not bool(tensor.isfinite().all()):
                raise Dalle2EduError(
                    f"The {name} not finite: a number is nan or infinite."
                )
        longest = float(z_i.norm(dim=1).max()) if len(z_i) else 0.0
        if self.clip.normalize and longest > FAR:
            message = (
                f"An embedding is {longest:.1f} long, and CLIP's have length 1: the decoder has"
                " never seen one like it, and its picture will mean little."
            )
            warnings.warn(message, stacklevel=frames_inside())

    # --- sizes and options ------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side of the final pictures."""
        last = self.upsamplers[-1] if self.upsamplers else self.decoder
        return last.config.unet.image_size

    def decoder_shape(self, n: int) -> tuple[int, int, int, int]:
        """The shape of the decoder's noise and pictures, for n of them."""
        side = self.decoder.config.unet.image_size
        return n, 3, side, side

    @torch.no_grad()
    def analytic_prior(
        self,
        image_emb: Tensor,
        captions: Sequence[str],
        prior_steps: int = 25,
        seed: int = 0,
    ) -> Stage:
        """The prior's stage with prior_steps steps and the variances that are best on
        these pairs (Analytic-DPM), to be set as `prior_stage`.

        image_emb (N, D) are CLIP embeddings of pictures, with N captions. Raises
        Dalle2EduError for other numbers of them, and if the prior is not the diffusion
        prior.
        """
        if len(image_emb) != len(captions) or not captions:
            raise Dalle2EduError(
                "There must be one caption for each embedding:"
                f" {len(image_emb)} and {len(captions)}."
            )
        prior = self.prior
        if not isinstance(prior, DiffusionPrior):
            raise Dalle2EduError(
                "Only the diffusion prior has reverse steps whose variances could be chosen."
            )
        stage = self.prior_stage.changed(steps=prior_steps, name="prior_steps")
        conditioning = self.encode_text(captions).as_conditioning()
        noise = SeededNoise([seed + i for i in range(len(captions))], self.device)
        z_0 = prior.standardise(image_emb.to(self.device))  # (N, D)
        denoiser: Denoiser = lambda noised_z, t: prior(noised_z, t, **conditioning)  # noqa: E731
        moment = noise_second_moment(
            [(denoiser, z_0, noise)], stage.process, stage.clip
        )
        variance = optimal_variance(stage.process, moment)
        # steps=None: respacing would lose the variances
        return replace(
            stage, diffusion=AnalyticDiffusion(stage.process, variance), steps=None
        )


def best_places(scores: Tensor, best_of: int) -> list[int]:
    """Scores (B * best_of,), one prompt's after the other: where each prompt's largest
    stands.
    """
    groups = scores.reshape(-1, best_of)  # (B, best_of)
    starts = torch.arange(len(groups), device=scores.device) * best_of  # (B,)
    return (starts + groups.argmax(dim=1)).tolist()
