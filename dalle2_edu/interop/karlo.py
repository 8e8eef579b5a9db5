"""Karlo, the open unCLIP of 3.7 billion numbers, in the classes of this book.

    from dalle2_edu import UnCLIP
    karlo = UnCLIP.from_karlo("kakaobrain/karlo-v1-alpha", dtype=torch.bfloat16, device="cuda")
    pictures = karlo.text_to_image(["a portrait of a dachshund wearing a top hat"])     # (1, 3, 256, 256)

What it does otherwise than the miniature, all of it read in its code and its configuration:

    CLIP        ViT-L/14, its projections as they come: not normalised
    prior       1000 cosine steps, predicts the embedding, 25 steps, guidance 4, one candidate
    decoder     64 x 64, predicts eps and the variance, 25 or 50 ancestral steps, guidance 8
    upsampler   64 -> 256 in 7 steps; the last one by a second network, fine-tuned to add the sharp detail

It comes in two formats: Karlo's own checkpoints, and the folder that diffusers made of them.
diffusers keeps the noise schedule in single precision, Karlo and we in double: one step then
differs by up to 1e-3 (prior) and 5e-4 (decoder, upsampler).

Chapter 24 uses this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.process import GaussianDiffusion
from dalle2_edu.diffusion.samplers import ancestral_sample
from dalle2_edu.diffusion.schedules import cosine_betas
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.drawing.pictures import Picture, one_picture
from dalle2_edu.drawing.run import Run, checked_count
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop import diffusers_keys, keys, presets
from dalle2_edu.interop.weights import (
    Selected,
    Source,
    find_file,
    is_hub_name,
    open_object,
    open_weights,
    pour,
)
from dalle2_edu.text2image.clip import Clip, TextEncoding, without_padding, wrap_open_clip
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig

OWN_FILES = {
    "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
    "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
    "upsampler": "improved-sr-ckpt-step=1.2M.ckpt",
    "clip": "ViT-L-14.pt",
    "stats": "ViT-L-14_stats.th",
}
BY_HAND = "hf download kakaobrain/karlo-v1-alpha --local-dir karlo"
RELEASED = {
    "guidance_scale": 8.0,
    "prior_steps": 25,
    "decoder_steps": 25,
    "upsampler_steps": 7,
    "prior_guidance": 4.0,
}
TOKENIZER = "ViT-L-14-quickgelu"
OWN_PRIOR_CLIP = 10.0  # Karlo's code; diffusers' scheduler has 5


@dataclass(frozen=True)
class KarloConfig:
    """The sizes of its networks, and where the prior's guess is clipped."""

    prior: PriorConfig = presets.KARLO_PRIOR
    decoder: DecoderConfig = presets.KARLO_DECODER
    upsampler: UpsamplerConfig = presets.KARLO_UPSAMPLER
    prior_clip: float = OWN_PRIOR_CLIP


class Karlo(UnCLIP):
    """The five networks: CLIP, prior, decoder, and two for the upsampling."""

    def __init__(
        self,
        clip: Clip,
        prior: DiffusionPrior,
        decoder: Decoder,
        first: Upsampler,
        last: Upsampler,
    ):
        tokenizer: Any = ClipTokenizer(clip.model.context_length)
        super().__init__(clip, prior, decoder, [first], tokenizer)
        self.last = last
        self.prior_clip = OWN_PRIOR_CLIP
        self.decoder_process = GaussianDiffusion(cosine_betas(1000), "eps", "learned_range")
        self.prior_process = GaussianDiffusion(cosine_betas(1000), "x0", "fixed_small")
        self.upsampler_process = GaussianDiffusion(cosine_betas(1000), "eps", "fixed_small")

    def text_to_image(  # type: ignore[override]
        self, prompts: Sequence[str], seed: int | Sequence[int] = 0, **how: Any
    ) -> Any:
        """English prompts -> pictures (B, 3, 256, 256) in [-1, 1]; how: as
        `UnCLIP.text_to_image`, but with Karlo's steps and guidance (`RELEASED`) unless given.
        """
        return super().text_to_image(prompts, seed, **{**RELEASED, **how})

    @torch.no_grad()
    def variations(  # type: ignore[override]
        self,
        image: Picture,
        n: int = 4,
        seed: int = 0,
        guidance_scale: float = RELEASED["guidance_scale"],
        decoder_steps: int = 25,
        upsampler_steps: int = 7,
        progress: bool = True,
    ) -> Tensor:
        """n pictures of what this picture is of, (n, 3, 256, 256): its embedding, and new
        noise.

        Karlo's own way, which does not invert the picture; `UnCLIP.variations(karlo, image, n,
        eta)` does."""
        if not hasattr(self.clip.model, "visual"):
            raise Dalle2EduError(
                "This Karlo has no image encoder; karlo-v1-alpha-image-variations brings one."
            )
        run = Run([seed + i for i in range(checked_count("n", n))], self.device, progress)
        z_i = self.clip.encode_image(
            one_picture(image, self.image_size).to(self.dtype_and_device())
        ).expand(n, -1)
        small = self.paint(z_i, self.encode_text([""] * n), run, decoder_steps, guidance_scale)
        return self.enlarge(small, run, upsampler_steps)[-1]

    def dtype_and_device(self) -> Tensor:
        """A number of the weights' type, on their device."""
        return torch.zeros((), dtype=self.decoder.null_image_emb.dtype, device=self.device)

    def draw_embeddings(
        self,
        text: TextEncoding,
        run: Run,
        steps: int,
        process: GaussianDiffusion | None = None,
        guidance_scale: float = RELEASED["prior_guidance"],
    ) -> Tensor:
        """One image embedding for each text, (B, 1, D), in CLIP's space as it comes."""
        noise = run.noise("prior 0")
        text, null = without_padding(text, self.encode_text([""] * len(text.text_emb)))
        prior: Any = self.prior
        z = ancestral_sample(
            classifier_free(
                prior, guidance_scale, null.as_conditioning(), text.as_conditioning()
            ),
            process or self.prior_process.respace(steps),
            noise(text.text_emb.shape).to(text.text_emb.dtype),
            noise,
            clip=self.prior_clip,
            callback=run.watch("prior"),
            progress=run.label("prior"),
        )
        return prior.unstandardise(z)[:, None]

    def paint(
        self,
        image_emb: Tensor,
        text: TextEncoding,
        run: Run,
        steps: int,
        guidance_scale: float,
        x_T: Tensor | None = None,
        eta: float | None = None,
    ) -> Tensor:
        """Embeddings (B, D) and texts -> (B, 3, 64, 64): ancestral with the learned variance,
        or by DDIM if an eta is given, as the edits do.
        """
        if eta is not None:
            return super().paint(image_emb, text, run, steps, guidance_scale, x_T, eta)
        noise = run.noise("decoder")
        start = noise(self.decoder_shape(len(image_emb))) if x_T is None else x_T
        return ancestral_sample(
            self.denoiser(image_emb, text, guidance_scale),
            self.decoder_process.respace(steps),
            start.to(image_emb.dtype),
            noise,
            callback=run.watch("decoder"),
            progress=run.label("decoder"),
        ).clamp(-1, 1)

    def upsample(self, upsampler: Upsampler, low_res: Tensor, run: Run, steps: int) -> Tensor:
        """(B, 3, 64, 64) -> (B, 3, 256, 256) in [-1, 1]. The two networks take turns by the
        count of the steps.
        """
        side = upsampler.config.unet.image_size
        noise, turns = (
            run.noise(f"upsampler_{side}"),
            iter([upsampler] * (steps - 1) + [self.last]),
        )
        x_T = noise((len(low_res), 3, side, side)).to(low_res.dtype)
        drawn = ancestral_sample(
            lambda x_t, t: next(turns)(x_t, t, low_res),
            self.upsampler_process.respace(steps),
            x_T,
            noise,
            callback=run.watch(f"upsampler_{side}"),
            progress=run.label(f"upsampler_{side}"),
        )
        return drawn.clamp(-1, 1)

    def inpaint(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Not there: the miniature's inpainting keeps known *detail*, and Karlo's upsampler
        draws pictures.
        """
        raise Dalle2EduError(
            "Karlo can't inpaint here: take the miniature, or GLIDE's inpainting networks."
        )


class ClipTokenizer:
    """CLIP's own byte-pair tokenizer, with what the pipeline asks of one."""

    def __init__(self, context_length: int):
        self.context_length = context_length
        self.bpe = open_clip.get_tokenizer(TOKENIZER)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, context_length), zero-padded."""
        return self.bpe(list(texts), context_length=self.context_length)

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text as a reader can see them."""
        return [self.bpe.decode([token]).strip() for token in self.bpe.encode(text)]

    def cut(self, text: str) -> str:
        """What of a text does not fit."""
        return self.bpe.decode(self.bpe.encode(text)[self.context_length - 2 :]).strip()


# --- loading ----------------------------------------------------------------------------------


def load_karlo(
    source: Source,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: bool = True,
    config: KarloConfig | None = None,
) -> Karlo:
    """Karlo from a folder in either format, or from a Hugging Face repository in diffusers'
    ("owner/name").

    config: the sizes of Karlo's own checkpoints, which do not say them, if they are not the
    released ones. Raises Dalle2EduError, naming file and key, for what is missing, cut off or
    another network; no half-loaded pipeline is ever returned."""
    folder = find_folder(source)
    how = {"dtype": dtype, "device": device, "progress": progress}
    if (folder / "prior" / "config.json").is_file():
        return _from_diffusers(folder, how)
    return _from_own(folder, config or KarloConfig(), how)


def find_folder(source: Source) -> Path:
    """The folder, fetched first if `source` is a repository's name."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_name(source):
        raise Dalle2EduError(f"There is no folder {folder}. To get Karlo by hand: {BY_HAND}")
    try:
        return Path(
            snapshot_download(
                str(source), allow_patterns=["*.json", "*.safetensors", "*.bin", "*.txt"]
            )
        )
    except (OSError, HFValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Dalle2EduError(
            f"{source} could not be fetched ({reason}). To get it by hand: {BY_HAND}"
        ) from error


def _from_own(folder: Path, config: KarloConfig, how: dict[str, Any]) -> Karlo:
    """Karlo's own checkpoints; their `state_dict` holds every network under a prefix."""
    paths = {part: find_file(folder, [name], BY_HAND) for part, name in OWN_FILES.items()}
    mean, std = _statistics(paths["stats"])
    files = {part: _state_dict(paths[part]) for part in ("prior", "decoder", "upsampler")}

    def part(name: str, prefix: str, build: Any, mapped: Any, extra: Any = None) -> Any:
        official = Selected(files[name], prefix)
        return pour(build, mapped(official), paths[name], len(official), extra=extra, **how)

    prior = part(
        "prior",
        "model.",
        lambda: DiffusionPrior(config.prior),
        lambda official: keys.karlo_prior_tensors(official, config.prior.heads),
        {"mean": mean, "std": std},
    )
    decoder = part(
        "decoder",
        "model.",
        lambda: Decoder(config.decoder),
        lambda official: keys.karlo_decoder_tensors(official, config.decoder.unet),
    )
    first, last = (
        part(
            "upsampler",
            f"model_{which}.",
            lambda: Upsampler(config.upsampler),
            lambda official: keys.upsampler_tensors(official, config.upsampler.unet),
        )
        for which in ("first_steps", "last_step")
    )
    karlo = Karlo(_own_clip(paths["clip"], how), prior, decoder, first, last)
    karlo.prior_clip = config.prior_clip
    return karlo


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of the image embeddings."""
    found = open_object(path)
    pair = list(found) if isinstance(found, (list, tuple)) else []
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise Dalle2EduError(f"{path} is no statistics file of Karlo: expected two tensors.")
    return pair[0], pair[1]


def _state_dict(path: Path) -> Any:
    checkpoint = open_weights(path)
    if "state_dict" not in checkpoint:
        raise Dalle2EduError(
            f"{path} is no checkpoint of Karlo: it has no 'state_dict' but"
            f" {', '.join(list(checkpoint)[:3])}, ..."
        )
    return checkpoint["state_dict"]


def _own_clip(path: Path, how: dict[str, Any]) -> Clip:
    """OpenAI's ViT-L-14.pt, a TorchScript archive, or a plain state dict with its keys; the
    sizes are the shapes'.
    """
    official = open_weights(path)
    # Stored beside the weights in OpenAI's archive.
    sizes = ("input_resolution", "context_length", "vocab_size")
    named = {key: tensor for key, tensor in official.items() if key not in sizes}
    try:
        build = clip_from_shapes(named)
    except KeyError as error:
        raise Dalle2EduError(f"{path} is no CLIP of OpenAI's: it has no {error}.") from error
    return _clip(pour(build, iter(named.items()), path, len(named), **how))


def clip_from_shapes(state: dict[str, Tensor]) -> Any:
    """What builds the CLIP with these tensors: OpenAI's transformers have 64 channels a
    head.
    """
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    side = patch * math.isqrt(len(state["visual.positional_embedding"]) - 1)
    text_width, (vocabulary, _) = (
        state["ln_final.weight"].shape[0],
        state["token_embedding.weight"].shape,
    )
    vision = open_clip.CLIPVisionCfg(
        _depth(state, "visual."), width, min(64, width), patch_size=patch, image_size=side
    )
    text = open_clip.CLIPTextCfg(
        context_length=len(state["positional_embedding"]),
        vocab_size=vocabulary,
        width=text_width,
        heads=max(1, text_width // 64),
        layers=_depth(state, ""),
    )
    return lambda: open_clip.CLIP(
        state["text_projection"].shape[1], vision, text, quick_gelu=True
    )


def _depth(state: dict[str, Tensor], prefix: str) -> int:
    start = f"{prefix}transformer.resblocks."
    return 1 + max(
        int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start)
    )


def _clip(model: Any) -> Clip:
    length, device = model.context_length, model.positional_embedding.device
    mask = torch.full(
        (length, length), float("-inf"), device=device, dtype=model.positional_embedding.dtype
    )
    model.attn_mask = mask.triu(1)  # no weight, so no file holds it
    clip = wrap_open_clip(model)
    clip.normalize = False
    return clip.eval()


# --- diffusers' folder ------------------------------------------------------------------------

WEIGHTS = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"]
CLIP_WEIGHTS = ["model.safetensors", "pytorch_model.bin"]


def _from_diffusers(folder: Path, how: dict[str, Any]) -> Karlo:
    prior_config, text_proj, decoder_config = (
        _config(folder, part) for part in ("prior", "text_proj", "decoder")
    )
    unet = unet_config(decoder_config)
    decoder = DecoderConfig(
        text_proj["clip_embeddings_dim"], text_proj["clip_embeddings_dim"], unet=unet
    )
    width = prior_config["num_attention_heads"] * prior_config["attention_head_dim"]
    prior = PriorConfig(
        clip_dim=prior_config["embedding_dim"],
        text_width=prior_config["embedding_dim"],
        context_length=prior_config["num_embeddings"],
        width=width,
        layers=prior_config["num_layers"],
        heads=prior_config["num_attention_heads"],
    )
    upsampler = UpsamplerConfig("cosine", unet_config(_config(folder, "super_res_first")))

    def part(name: str, build: Any, mapped: Any) -> Any:
        path = find_file(folder / name, WEIGHTS, BY_HAND)
        official = open_weights(path)
        return pour(build, mapped(official), path, len(official), **how)

    clip = _diffusers_clip(folder, how)
    filled = part("prior", lambda: DiffusionPrior(prior), diffusers_keys.prior_tensors)
    proj_path = find_file(folder / "text_proj", WEIGHTS, BY_HAND)
    painter = part(
        "decoder",
        lambda: Decoder(decoder),
        lambda official: _both(
            official, unet, diffusers_keys.text_proj_tensors(open_weights(proj_path))
        ),
    )
    first, last = (
        part(
            f"super_res_{which}",
            lambda: Upsampler(upsampler),
            lambda official: diffusers_keys.unet_tensors(
                official, upsampler.unet.num_res_blocks
            ),
        )
        for which in ("first", "last")
    )
    karlo = Karlo(clip, filled, painter, first, last)
    scheduler = folder / "prior_scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        karlo.prior_clip = json.loads(scheduler.read_text()).get(
            "clip_sample_range", OWN_PRIOR_CLIP
        )
    return karlo


def _both(official: Any, unet: UNetConfig, outside: Any) -> Any:
    yield from outside
    yield from diffusers_keys.unet_tensors(official, unet.num_res_blocks)


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    if not path.is_file():
        raise Dalle2EduError(
            f"There is no {path}; the folder is not complete. To get it by hand: {BY_HAND}"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise Dalle2EduError(
            f"{path} can't be read ({error}); fetch it again: {BY_HAND}"
        ) from error


def unet_config(theirs: dict[str, Any]) -> UNetConfig:
    """Our U-Net's config from `UNet2DConditionModel`'s or `UNet2DModel`'s."""
    widths = theirs["block_out_channels"]
    attends = [i for i, kind in enumerate(theirs["down_block_types"]) if "CrossAttn" in kind]
    return UNetConfig(
        image_size=theirs["sample_size"],
        in_channels=theirs["in_channels"],
        out_channels=theirs["out_channels"],
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=theirs["layers_per_block"],
        attention_levels=tuple(attends),
        head_channels=theirs.get("attention_head_dim") or 64,
        scale_shift_norm=theirs.get("resnet_time_scale_shift") == "scale_shift",
        middle_attention=bool(attends),
        context_dim=theirs.get("cross_attention_dim") if attends else None,
        norm_groups=theirs.get("norm_num_groups") or 32,
    )


def _diffusers_clip(folder: Path, how: dict[str, Any]) -> Clip:
    """The text tower and, if the folder has one, the image tower, in one open_clip model."""
    text, sees = (
        _config(folder, "text_encoder"),
        (folder / "image_encoder" / "config.json").is_file(),
    )
    vision = _config(folder, "image_encoder") if sees else None
    paths = [
        find_file(folder / part, CLIP_WEIGHTS, BY_HAND)
        for part in ("text_encoder", "image_encoder")[: 1 + sees]
    ]
    files = [open_weights(path) for path in paths]
    tensors = (pair for file in files for pair in diffusers_keys.clip_tensors(file))
    model = pour(
        lambda: _towers(text, vision),
        tensors,
        paths[0],
        sum(map(len, files)),
        extra={
            "logit_scale": torch.tensor(math.log(100))
        },  # used in training only, and not in these files
        **how,
    )
    return _clip(model)


def _towers(text: dict[str, Any], vision: dict[str, Any] | None) -> Any:
    seen = vision or {
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "patch_size": 8,
        "image_size": 8,
        "heads": 1,
    }
    heads = seen.get("num_attention_heads", 1)
    model = open_clip.CLIP(
        text["projection_dim"],
        open_clip.CLIPVisionCfg(
            seen["num_hidden_layers"],
            seen["hidden_size"],
            seen["hidden_size"] // heads,
            mlp_ratio=seen.get("intermediate_size", 4 * seen["hidden_size"])
            / seen["hidden_size"],
            patch_size=seen["patch_size"],
            image_size=seen["image_size"],
        ),
        open_clip.CLIPTextCfg(
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            mlp_ratio=text.get("intermediate_size", 4 * text["hidden_size"])
            / text["hidden_size"],
        ),
        quick_gelu=text.get("hidden_act", "quick_gelu") == "quick_gelu",
    )
    if vision is None:
        del model.visual
    return model
