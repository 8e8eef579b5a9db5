"""diffusers' side: its classes with our weights, and a plain loop over its parts and
schedulers.

The classes are those of its (deprecated) unCLIP pipeline. They are built at our sizes
and filled with random numbers; `interop`'s mappings then pour the same numbers into our
classes. Each is wrapped so that it takes what ours takes.
"""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers import scheduling_unclip
from networks import Drawing, Size, ours
from timing import DEVICE
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from dalle2_edu.diffusion.samplers import Denoiser
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import TIME_EMB_MULT, UNetConfig
from dalle2_edu.drawing.run import DrawingRun
from dalle2_edu.interop import diffusers_keys
from dalle2_edu.unclip.decoder import IMAGE_TOKENS, DecoderConfig
from dalle2_edu.unclip.prior import EXTRA_TOKENS, PriorConfig

VOCABULARY = 49408  # CLIP's
PRIOR_GUIDANCE, DECODER_GUIDANCE = 4.0, 8.0
PRIOR_STEPS, DECODER_STEPS, UPSAMPLER_STEPS = 25, 25, 7


# --- its classes at our sizes ---------------------------------------------------------


def awakened(module: nn.Module) -> nn.Module:
    """Random numbers in every parameter, also in those that start at zero: so a
    difference can't hide.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape)
                * 0.5
                / math.sqrt(max(1, parameter[0].numel()))
            )
    return module


def common(config: UNetConfig, down: list[str], up: list[str]) -> dict[str, object]:
    return {
        "sample_size": config.image_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": tuple(
            config.channels * mult for mult in config.channel_mult
        ),
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.norm_groups,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift"
        if config.scale_shift_norm
        else "default",
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
    }


def unet(config: UNetConfig) -> UNet2DConditionModel:
    """The decoder's U-Net."""
    levels = range(len(config.channel_mult))
    down = [
        "SimpleCrossAttnDownBlock2D"
        if i in config.attention_levels
        else "ResnetDownsampleBlock2D"
        for i in levels
    ]
    up = [
        "SimpleCrossAttnUpBlock2D"
        if i in config.attention_levels
        else "ResnetUpsampleBlock2D"
        for i in levels
    ]
    return UNet2DConditionModel(
        **common(config, down, up[::-1]),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.head_channels,
        class_embed_type="identity",
        only_cross_attention=False,
    )


def plain_unet(config: UNetConfig) -> UNet2DModel:
    """An upsampler's U-Net."""
    n = len(config.channel_mult)
    kinds = common(
        config, ["ResnetDownsampleBlock2D"] * n, ["ResnetUpsampleBlock2D"] * n
    )
    return UNet2DModel(**kinds, add_attention=False, freq_shift=0, flip_sin_to_cos=True)


def text_proj(config: DecoderConfig) -> UnCLIPTextProjModel:
    return UnCLIPTextProjModel(
        clip_embeddings_dim=config.clip_dim,
        time_embed_dim=config.unet.channels * TIME_EMB_MULT,
        cross_attention_dim=config.unet.context_dim,
    )


def prior_transformer(config: PriorConfig) -> PriorTransformer:
    return PriorTransformer(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        num_layers=config.layers,
        embedding_dim=config.clip_dim,
        num_embeddings=config.context_length,
        additional_embeddings=EXTRA_TOKENS,
    )


def text_encoder(width: int, length: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=length,
        hidden_act="quick_gelu",
        eos_token_id=VOCABULARY - 1,
    )
    return CLIPTextModelWithProjection(config)


class TheirDecoder(nn.Module):
    """`UnCLIPTextProjModel` and `UNet2DConditionModel`, asked as ours is."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.text_proj, self.unet = text_proj(config), unet(config.unet)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        image_emb: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        hidden, added = self.text_proj(
            image_embeddings=image_emb,
            prompt_embeds=text_emb,
            text_encoder_hidden_states=text_enc,
            do_classifier_free_guidance=False,
        )
        mask = F.pad(text_mask, (IMAGE_TOKENS, 0), value=True)
        return self.unet(
            x_t,
            t,
            encoder_hidden_states=hidden,
            class_labels=added,
            attention_mask=mask,
        ).sample


class TheirPrior(nn.Module):
    """`PriorTransformer`, asked as ours is."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.prior = prior_transformer(config)

    def forward(
        self,
        noised_z: Tensor,
        t: Tensor,
        text_emb: Tensor,
        text_enc: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        return self.prior(
            noised_z,
            timestep=t,
            proj_embedding=text_emb,
            encoder_hidden_states=text_enc,
            attention_mask=text_mask,
        ).predicted_image_embedding


def theirs(size: Size, part: str) -> nn.Module:
    """diffusers' network of our size, random."""
    return TheirDecoder(size.decoder) if part == "decoder" else TheirPrior(size.prior)


def matched(size: Size, part: str) -> tuple[nn.Module, nn.Module]:
    """Our network and diffusers', with the same random numbers in both."""
    own, their = ours(size, part), awakened(theirs(size, part))
    if isinstance(their, TheirDecoder):
        tensors = dict(diffusers_keys.text_proj_tensors(their.text_proj.state_dict()))
        tensors |= diffusers_keys.unet_tensors(
            their.unet.state_dict(), size.decoder.unet.num_res_blocks
        )
    else:
        tensors = dict(diffusers_keys.prior_tensors(their.prior.state_dict()))
    own.load_state_dict(tensors)
    return own, their


@torch.no_grad()
def difference(own: nn.Module, their: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The largest difference between the two answers, as a share of the largest number
    in them.
    """
    with torch.backends.cudnn.flags(
        allow_tf32=False
    ):  # convolutions on a GPU otherwise keep ten bits
        a, b = own.to(DEVICE)(**inputs), their.to(DEVICE)(**inputs)
    return ((a - b).abs().max() / b.abs().max()).item()


# --- a whole drawing ------------------------------------------------------------------

SCHEDULERS = {  # as the released Karlo's configuration has them
    "prior": ("sample", "fixed_small_log", 5.0),
    "decoder": ("epsilon", "learned_range", 1.0),
    "super_res": ("epsilon", "fixed_small_log", 1.0),
}


KINDS = {
    "prior": PriorTransformer,
    "decoder": UNet2DConditionModel,
    "text_proj": UnCLIPTextProjModel,
    "super_res_first": UNet2DModel,
    "super_res_last": UNet2DModel,
    "text_encoder": CLIPTextModelWithProjection,
}


def scheduler(stage: str) -> scheduling_unclip.UnCLIPScheduler:
    prediction, variance, clip = SCHEDULERS[stage]
    return scheduling_unclip.UnCLIPScheduler(
        variance_type=variance,
        clip_sample=True,
        clip_sample_range=clip,
        prediction_type=prediction,
    )


def save_karlo(drawing: Drawing, folder: Path) -> None:
    """A random Karlo in diffusers' folder format, which `load_karlo` and `TheirKarlo`
    read.
    """
    parts = {
        "prior": prior_transformer(drawing.prior),
        "decoder": unet(drawing.decoder.unet),
        "text_proj": text_proj(drawing.decoder),
        "super_res_first": plain_unet(drawing.upsampler.unet),
        "super_res_last": plain_unet(drawing.upsampler.unet),
        "text_encoder": text_encoder(drawing.decoder.clip_dim, drawing.length),
    }
    for name, module in parts.items():
        awakened(module)
        if name == "prior":
            module.clip_std.data.abs_()  # a standard deviation
        module.save_pretrained(folder / name)
    scheduler("prior").save_pretrained(folder / "prior_scheduler")


class TheirKarlo:
    """What diffusers' unCLIP pipeline does, as a plain loop over its parts and
    schedulers.

    The pipeline itself can no longer be loaded from a folder in the newest versions.
    The noise is that of our seeds, handed to the scheduler in place of its own.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32):
        loaded = {
            name: kind.from_pretrained(folder / name, torch_dtype=dtype)
            for name, kind in KINDS.items()
        }
        self.parts = {name: part.to(DEVICE).eval() for name, part in loaded.items()}
        self.dtype = dtype
        self.schedulers = {stage: scheduler(stage) for stage in SCHEDULERS}

    @torch.no_grad()
    def __call__(self, tokens: Tensor, null_tokens: Tensor, seeds: list[int]) -> Tensor:
        """Token ids (B, L) of the prompts and of empty texts -> pictures (B, 3, S, S)
        in [-1, 1].
        """
        run = DrawingRun(seeds, DEVICE)
        text = self.read(torch.cat([null_tokens, tokens]).to(DEVICE))
        return self.enlarge(self.paint(self.draw_embedding(text, run), text, run), run)

    def read(self, tokens: Tensor) -> dict[str, Tensor]:
        out = self.parts["text_encoder"](tokens)
        real = torch.arange(tokens.shape[1], device=DEVICE)[None] <= tokens.argmax(
            dim=1, keepdim=True
        )
        return {
            "text_emb": out.text_embeds,
            "text_enc": out.last_hidden_state,
            "text_mask": real,
        }

    def draw_embedding(self, text: dict[str, Tensor], run: DrawingRun) -> Tensor:
        prior = self.parts["prior"]

        def guess(x: Tensor, t: Tensor) -> Tensor:
            null, given = prior(
                torch.cat([x, x]),
                timestep=t,
                proj_embedding=text["text_emb"],
                encoder_hidden_states=text["text_enc"],
                attention_mask=text["text_mask"],
            ).predicted_image_embedding.chunk(2)
            return null + PRIOR_GUIDANCE * (given - null)

        shape = (len(run.seeds), prior.config.embedding_dim)
        return prior.post_process_latents(
            self.walk(guess, "prior", "prior 0", shape, PRIOR_STEPS, run)
        )

    def paint(
        self, image_emb: Tensor, text: dict[str, Tensor], run: DrawingRun
    ) -> Tensor:
        unet = self.parts["decoder"]
        hidden, added = self.parts["text_proj"](
            image_embeddings=image_emb,
            prompt_embeds=text["text_emb"],
            text_encoder_hidden_states=text["text_enc"],
            do_classifier_free_guidance=True,
        )
        mask = F.pad(text["text_mask"], (IMAGE_TOKENS, 0), value=True)

        def guess(x: Tensor, t: Tensor) -> Tensor:
            both = unet(
                torch.cat([x, x]),
                t,
                encoder_hidden_states=hidden,
                class_labels=added,
                attention_mask=mask,
            ).sample
            null, given = both.chunk(2)
            null_eps, (eps, variance) = null[:, :3], given.split(3, dim=1)
            return torch.cat(
                [null_eps + DECODER_GUIDANCE * (eps - null_eps), variance], dim=1
            )

        side = unet.config.sample_size
        return self.walk(
            guess,
            "decoder",
            "decoder",
            (len(run.seeds), 3, side, side),
            DECODER_STEPS,
            run,
        ).clamp(-1, 1)

    def enlarge(self, small: Tensor, run: DrawingRun) -> Tensor:
        first, last = self.parts["super_res_first"], self.parts["super_res_last"]
        side = first.config.sample_size
        enlarged = F.interpolate(small, (side, side), mode="bicubic", antialias=True)
        turns = iter([first] * (UPSAMPLER_STEPS - 1) + [last])

        def guess(x: Tensor, t: Tensor) -> Tensor:
            return next(turns)(torch.cat([x, enlarged], dim=1), t).sample

        shape = (len(run.seeds), 3, side, side)
        return self.walk(
            guess, "super_res", f"upsampler_{side}", shape, UPSAMPLER_STEPS, run
        ).clamp(-1, 1)

    def walk(
        self,
        guess: Denoiser,
        stage: str,
        stream: str,
        shape: tuple[int, ...],
        steps: int,
        run: DrawingRun,
    ) -> Tensor:
        """One stage's steps; `stream` is the name of our noise there."""
        noise, schedule = run.noise(stream), self.schedulers[stage]
        schedule.set_timesteps(steps, device=DEVICE)
        times = schedule.timesteps
        x = noise(shape).to(self.dtype)
        with mock.patch.object(
            scheduling_unclip,
            "randn_tensor",
            lambda size, **_: noise(size).to(self.dtype),
        ):
            for i, t in enumerate(times):
                before = times[i + 1] if i + 1 < steps else None
                x = schedule.step(guess(x, t), t, x, prev_timestep=before).prev_sample
        return x

    def sharpen(self) -> None:
        """Schedules in double precision, as Karlo's own code and ours have them;
        diffusers' are in single.
        """
        for each in self.schedulers.values():
            each.betas = cosine_betas(each.config.num_train_timesteps)
            each.alphas = 1 - each.betas
            each.alphas_cumprod = each.alphas.cumprod(dim=0)
            each.one = torch.ones((), dtype=torch.float64)
