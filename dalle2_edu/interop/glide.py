"""GLIDE (filtered), the released one, from a prompt to 256 x 256 pixels, and its
inpainting networks.

    from dalle2_edu import load_glide
    glide = load_glide("weights/", dtype=torch.bfloat16, device="cuda")
    pictures = glide.text_to_image(["an oil painting of a corgi"])               # (1, 3, 256, 256)

As its authors' notebooks run it (openai/glide-text2im):

    base          64 x 64, 1000 cosine steps, 100 of them ancestral with the learned variance, guidance 3
    upsampler     64 -> 256, 1000 linear steps, 27 of them by DDIM, from noise scaled by 0.997, no guidance
    inpainting    guidance 5; the known pixels are put in place at each step

The text is read once per picture and not once per step: `Glide.denoise` takes what
`Glide.read` found.

Chapter 24 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as BytePairs
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import Denoiser, ancestral_sample, ddim_sample
from dalle2_edu.diffusion.schedules import cosine_betas, linear_betas
from dalle2_edu.drawing.pictures import Picture, as_mask, as_pictures, cover, resize
from dalle2_edu.drawing.run import (
    Run,
    checked_negative,
    checked_prompts,
    checked_seeds,
)
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop.released import GLIDE_FILES, load_glide_network
from dalle2_edu.interop.weights import Source, find_file
from dalle2_edu.text2image.glide import Glide
from dalle2_edu.text2image.inpainting import repaint
from dalle2_edu.unclip.stage import Stage

# of the upsampler's first noise: "1.0 is sharper, but sometimes results in grainy
# artifacts"
TEMPERATURE = 0.997
VOCABULARY = "hf download openai-community/gpt2 tokenizer.json --local-dir ."


class GlidePipeline:
    """GLIDE's networks and its tokenizer, put together. Any of the four networks may
    be missing.
    """

    def __init__(self, networks: dict[str, Glide], tokenizer: GlideTokenizer):
        self.networks = networks
        self.tokenizer = tokenizer
        # of any of them: device and type are the same
        any_network = next(iter(networks.values()))
        weight = next(any_network.parameters())
        self.device = weight.device
        self.dtype = weight.dtype
        self.base_stage = Stage(
            GaussianDiffusion(cosine_betas(1000), "eps", "learned_range"),
            ancestral_sample,
            steps=100,
            guidance_scale=3.0,
        )
        self.upsampler_stage = Stage(
            GaussianDiffusion(linear_betas(1000), "eps", "learned_range"),
            ddim_sample,
            steps="fast27",
        )

    @torch.no_grad()
    def text_to_image(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        steps: int | str | None = None,
        upsampler_steps: int | str | None = None,
        progress: bool = True,
    ) -> Tensor:
        """English prompts -> pictures (B, 3, 256, 256) in [-1, 1]; (B, 3, 64, 64)
        without an upsampler. None takes the stages' values; guidance leads away from
        negative_prompt.
        """
        prompts = checked_prompts(prompts, self.tokenizer)  # type: ignore[arg-type]
        run = Run(checked_seeds(seed, len(prompts)), self.device, progress)
        stage = self.base_stage.changed(steps=steps, guidance_scale=guidance_scale)
        scale = stage.guidance_scale
        negative = checked_negative(negative_prompt, scale, self.tokenizer)  # type: ignore[arg-type]
        network = self.network("base")
        noise = run.noise("base")
        small = stage.sample(
            self.guided(network, prompts, scale, negative),
            noise(picture_shape(network, len(prompts))).to(self.dtype),
            noise,
            progress=run.label("base"),
        )
        if "upsample" not in self.networks:
            return small
        return self.upsample(small, prompts, run, upsampler_steps)

    @torch.no_grad()
    def upsample(
        self,
        small: Tensor,
        prompts: Sequence[str],
        run: Run,
        steps: int | str | None = None,
        **known_part: Tensor,
    ) -> Tensor:
        """Pictures (B, 3, 64, 64) in [-1, 1] and their prompts -> (B, 3, 256, 256).
        known_part: what else an inpainting upsampler sees, `known` and `hole`.
        """
        network = self.network("upsample-inpaint" if known_part else "upsample")
        stage = self.upsampler_stage.changed(steps=steps, name="upsampler_steps")
        # in training the small picture came from a file: whole bytes
        grey = (small.clamp(-1, 1) + 1) * 127.5  # 0 ... 255
        low_res = grey.round() / 127.5 - 1
        tokens, mask = self.tokenizer(prompts, self.device)
        text = network.read(tokens, mask)  # once, not once a step
        noise = run.noise("upsampler")
        start = noise(picture_shape(network, len(small))).to(self.dtype)
        drawn = stage.sample(
            lambda x_t, t: network.denoise(
                x_t, t, **text, low_res=low_res, **known_part
            ),
            start * TEMPERATURE,  # a little less noise: fewer grains
            noise,
            progress=run.label("upsampler"),
        )
        return drawn.clamp(-1, 1)  # in bf16 a little may lie outside

    @torch.no_grad()
    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        prompt: str,
        *,
        seed: int = 0,
        guidance_scale: float = 5.0,
        steps: int | str | None = None,
        upsampler_steps: int | str | None = None,
        progress: bool = True,
    ) -> Tensor:
        """The picture with its masked part (True or white: where to paint) painted as
        the prompt says; every other pixel stays. (1, 3, 256, 256), or the base
        network's size without an inpainting upsampler.
        """
        run = Run(checked_seeds(seed, 1), self.device, progress)
        prompts = checked_prompts([prompt], self.tokenizer)  # type: ignore[arg-type]
        stage = self.base_stage.changed(steps=steps, guidance_scale=guidance_scale)
        base = self.network("base-inpaint")
        large = self.networks.get("upsample-inpaint")
        # S: what the picture is brought to
        side = (large or base).config.unet.image_size
        known = as_pictures(image, side).to(self.device, self.dtype)  # (1, 3, S, S)
        hole = as_mask(mask, side).to(self.device)  # (1, 1, S, S)
        small_side = base.config.unet.image_size
        small_known = resize(known, small_side)
        small_hole = cover(hole, small_side)
        # fine-tuned to see the known pixels: one walk down is enough (resamples=1)
        small = repaint(
            self.guided(
                base, prompts, guidance_scale, known=small_known, hole=small_hole
            ),
            stage.process,
            small_known,
            small_hole,
            run.noise("base"),
            resamples=1,
            progress=run.label("base"),
        )
        if large is None:
            return small
        drawn = self.upsample(
            small, prompts, run, upsampler_steps, known=known, hole=hole
        )
        # the known pixels themselves, bit by bit
        return torch.where(hole, drawn, known)

    def guided(
        self,
        network: Glide,
        prompts: Sequence[str],
        guidance_scale: float,
        negative_prompt: str = "",
        **known_part: Tensor,
    ) -> Denoiser:
        """A network closed over its prompts and the known part that it sees, guided
        away from the negative prompt, "" for the empty text.
        """

        def conditioning(texts: Sequence[str]) -> dict[str, Tensor]:
            tokens, mask = self.tokenizer(texts, self.device)
            return {**network.read(tokens, mask), **known_part}

        # one text for each prompt: null and conditional run as one batch
        null = [negative_prompt] * len(prompts)
        return classifier_free(
            network.denoise, guidance_scale, conditioning(null), conditioning(prompts)
        )

    def network(self, kind: str) -> Glide:
        """One of the four; raises Dalle2EduError if it was not loaded."""
        if kind not in self.networks:
            raise Dalle2EduError(
                f"This needs GLIDE's {kind} network ({GLIDE_FILES[kind]}); loaded:"
                f" {', '.join(self.networks)}."
            )
        return self.networks[kind]


def picture_shape(network: Glide, n: int) -> tuple[int, int, int, int]:
    """The shape of n pictures that a network draws."""
    side = network.config.unet.image_size
    return n, 3, side, side


class GlideTokenizer:
    """GPT-2's byte pairs, as GLIDE reads them: lower case, the last token of the
    vocabulary as padding, and no token for start or end.
    """

    def __init__(self, bpe: BytePairs, context_length: int, vocab_size: int):
        self.bpe = bpe
        self.context_length = context_length
        self.padding = vocab_size - 1

    def __call__(
        self, texts: Sequence[str], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Ids int64 and mask bool, True where a token is real, both (B,
        context_length).
        """
        length = self.context_length
        rows = [self.bpe.encode(text.lower()).ids[:length] for text in texts]
        shape = (len(rows), length)  # (B, L)
        tokens = torch.full(shape, self.padding, dtype=torch.int64)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        lengths = torch.tensor([[len(ids)] for ids in rows])  # (B, 1)
        places = torch.arange(length)[None]  # (1, L)
        mask = places < lengths  # (B, L)
        return tokens.to(device), mask.to(device)

    def cut(self, text: str) -> str:
        """What of a text does not fit."""
        ids = self.bpe.encode(text.lower()).ids
        return self.bpe.decode(ids[self.context_length :])


def load_glide(
    source: Source,
    kinds: Sequence[str] = ("base", "upsample"),
    vocabulary: Source | None = None,
    **how: Any,
) -> GlidePipeline:
    """GLIDE from a folder with its released files, and GPT-2's `tokenizer.json` beside
    them (or `vocabulary`).

    kinds: which of the four networks; how: as in `released.load_glide_network`,
    `config` as a dict of kind -> config.
    """
    configs = how.pop("config", {})
    path = find_file(vocabulary or Path(source), ["tokenizer.json"], VOCABULARY)
    networks = {
        kind: load_glide_network(source, kind, config=configs.get(kind), **how)
        for kind in kinds
    }
    config = next(iter(networks.values())).config  # the text side is the same in all
    bpe = _byte_pairs(path)
    tokenizer = GlideTokenizer(bpe, config.context_length, config.vocab_size)
    return GlidePipeline(networks, tokenizer)


def _byte_pairs(path: Path) -> BytePairs:
    try:
        return BytePairs.from_file(str(path))
    # the library raises bare Exception for a file that is not a tokenizer
    except Exception as error:
        raise Dalle2EduError(
            f"{path} is no tokenizer ({error}). To get it by hand: {VOCABULARY}"
        ) from error
