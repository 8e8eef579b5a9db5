"""Karlo, the open unCLIP of 3.7 billion numbers, in the classes of this book.

    from dalle2_edu import load_karlo
    karlo = load_karlo("kakaobrain/karlo-v1-alpha", dtype=torch.bfloat16, device="cuda")
    pictures = karlo.text_to_image(["a portrait of a dachshund wearing a top hat"])     # (1, 3, 256, 256)

It is the pipeline of the miniature with other networks and other values, all of them
read in its code and its configuration:

    CLIP        ViT-L/14, its projections as they come: not normalised
    prior       1000 cosine steps, predicts the embedding, 25 steps, guidance 4, one candidate
    decoder     64 x 64, predicts eps and the variance, 25 or 50 ancestral steps, guidance 8
    upsampler   64 -> 256 in 7 steps; the last one by a second network, fine-tuned to add the sharp detail

Only the last line is another procedure and not another value: see `Karlo.upsample`.

Variations of a picture are drawn from its embedding and new noise, without inversion:

    latent = Latent(karlo.embed("cat.png").expand(4, -1), karlo.draw_noise(range(4)))
    pictures = karlo.decode(latent, eta=None, guidance_scale=8.0, decoder_steps=25)

`karlo_files` loads it, in both formats that it comes in.

Chapter 24 uses this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dalle2_edu.diffusion.process import GaussianDiffusion, Prediction, Variance
from dalle2_edu.diffusion.samplers import ancestral_sample
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.drawing.pictures import Picture
from dalle2_edu.drawing.run import DrawingRun
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.prior import DiffusionPrior
from dalle2_edu.unclip.stage import Stage
from dalle2_edu.unclip.upsampler import Upsampler

TOKENIZER = "ViT-L-14-quickgelu"
KARLO_PRIOR_CLIP = 10.0  # in Karlo's own code; diffusers' scheduler has 5


class Karlo(UnCLIP):
    """The five networks: CLIP, prior, decoder, and two that take turns at
    upsampling.
    """

    draws_detail = False  # its upsampler diffuses pictures

    def __init__(
        self,
        clip: Clip,
        prior: DiffusionPrior,
        decoder: Decoder,
        first: Upsampler,
        last: Upsampler,
        prior_clip: float = KARLO_PRIOR_CLIP,
    ):
        tokenizer: Any = ClipTokenizer(clip.model.context_length)
        super().__init__(clip, prior, decoder, [first], tokenizer)
        self.last = last
        self.candidates = 1  # the paper draws two
        self.prior_stage = Stage(
            karlo_process("x0", "fixed_small"),
            ancestral_sample,
            steps=25,
            clip=prior_clip,
            guidance_scale=4.0,
        )
        self.decoder_stage = Stage(
            karlo_process("eps", "learned_range"),
            ancestral_sample,
            steps=25,
            guidance_scale=8.0,
        )
        # its upsampler was trained with a fixed variance, predicting the noise
        self.upsampler_stages = [
            Stage(karlo_process("eps", "fixed_small"), ancestral_sample, steps=7)
        ]

    def embed(self, picture: Picture) -> Tensor:
        """z_i: a picture's CLIP embedding, or a batch's, (B, D), as long as it
        comes.
        """
        if not hasattr(self.clip.model, "visual"):
            raise Dalle2EduError(
                "This Karlo has no image encoder; karlo-v1-alpha-image-variations brings one."
            )
        return super().embed(picture)

    def upsample(
        self, place: int, low_res: Tensor, run: DrawingRun, *, steps: int | None = None
    ) -> Tensor:
        """(B, 3, 64, 64) -> (B, 3, 256, 256) in [-1, 1]: the first network takes every
        step but the last, the second network that one.
        """
        first = self.upsamplers[place]
        stage = self.upsampler_stages[place].changed(
            steps=steps, name="upsampler_steps"
        )
        side = first.config.unet.image_size
        name = f"upsampler_{side}"
        noise = run.noise(name)
        # one network for each step, in the order in which the sampler asks
        steps_of_first = stage.process.num_timesteps - 1
        networks = iter([first] * steps_of_first + [self.last])
        pictures = stage.sample(
            lambda x_t, t: next(networks)(x_t, t, low_res),
            noise((len(low_res), 3, side, side)).to(low_res.dtype),
            noise,
            callback=run.watch(name),
            progress=run.label(name),
        )
        return pictures.clamp(-1, 1)


def karlo_process(prediction: Prediction, variance: Variance) -> GaussianDiffusion:
    """All three of its networks were trained on 1000 cosine steps."""
    return GaussianDiffusion(cosine_betas(1000), prediction, variance)


class ClipTokenizer:
    """CLIP's own byte-pair tokenizer, with what the pipeline asks of one."""

    def __init__(self, context_length: int):
        import open_clip  # here, since it takes seconds

        self.context_length = context_length
        self.bpe = open_clip.get_tokenizer(TOKENIZER)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, context_length), zero-padded."""
        # start and end come with it
        return self.bpe(list(texts), context_length=self.context_length)

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text as a reader can see them."""
        return [self.bpe.decode([token]).strip() for token in self.bpe.encode(text)]

    def cut(self, text: str) -> str:
        """What of a text does not fit."""
        tokens = self.bpe.encode(text)
        beyond = tokens[self.context_length - 2 :]  # start and end take two places
        return self.bpe.decode(beyond).strip()
