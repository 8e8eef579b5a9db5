"""Karlo's files: two formats in, the networks of `karlo` out.

    Karlo's own checkpoints     prior, decoder and upsampler as .ckpt, CLIP and the statistics beside them
    diffusers' folder           a folder for each network, with a config.json and its weights

diffusers keeps the noise schedule in single precision, Karlo and we in double: one step
then differs by up to 1e-3 (prior) and 5e-4 (decoder, upsampler).

Weights go straight to the wanted type and device (`weights.pour`), after every key and
shape was compared: no half-loaded pipeline is ever returned.

Chapter 24 uses this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.drawing.run import checked_device
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import read_json
from dalle2_edu.interop import diffusers_keys, keys, presets
from dalle2_edu.interop.karlo import KARLO_PRIOR_CLIP, Karlo
from dalle2_edu.interop.weights import (
    Selected,
    Source,
    find_file,
    is_hub_name,
    open_object,
    open_weights,
    pour,
)
from dalle2_edu.text2image.clip import Clip, wrap_open_clip
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig

KARLO_FILES = {
    "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
    "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
    "upsampler": "improved-sr-ckpt-step=1.2M.ckpt",
    "clip": "ViT-L-14.pt",
    "stats": "ViT-L-14_stats.th",
}
BY_HAND = "hf download kakaobrain/karlo-v1-alpha --local-dir karlo"


@dataclass(frozen=True)
class KarloConfig:
    """The sizes of its networks, and where the prior's prediction is clipped."""

    prior: PriorConfig = presets.KARLO_PRIOR
    decoder: DecoderConfig = presets.KARLO_DECODER
    upsampler: UpsamplerConfig = presets.KARLO_UPSAMPLER
    prior_clip: float = KARLO_PRIOR_CLIP


@dataclass(frozen=True)
class Target:
    """Where the weights go, and as what: the keywords of `weights.pour`."""

    dtype: torch.dtype
    device: torch.device
    progress: bool

    def keywords(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device, "progress": self.progress}


def load_karlo(
    source: Source,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: bool = True,
    config: KarloConfig | None = None,
) -> Karlo:
    """Karlo from a folder in either format, or from a Hugging Face repository in
    diffusers' ("owner/name").

    config: the sizes of Karlo's own checkpoints, which do not say them, if they are not
    the released ones. Raises Dalle2EduError, naming file and key, for what is missing,
    cut off or another network, and for a device that PyTorch can't use.
    """
    target = Target(dtype, checked_device(device), progress)
    folder = find_folder(source)
    # only diffusers' folders say their sizes
    if (folder / "prior" / "config.json").is_file():
        return _from_diffusers(folder, target)
    return _from_checkpoints(folder, config or KarloConfig(), target)


def find_folder(source: Source) -> Path:
    """The folder, fetched first if `source` is a repository's name."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_name(source):
        raise Dalle2EduError(
            f"There is no folder {folder}. To get Karlo by hand: {BY_HAND}"
        )
    # here, since it takes long to import and only fetching needs it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["*.json", "*.safetensors", "*.bin", "*.txt"]
    try:
        return Path(snapshot_download(str(source), allow_patterns=wanted))
    except (OSError, HFValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Dalle2EduError(
            f"{source} could not be fetched ({reason}). To get it by hand: {BY_HAND}"
        ) from error


# --- Karlo's own checkpoints ----------------------------------------------------------


def _from_checkpoints(folder: Path, config: KarloConfig, target: Target) -> Karlo:
    """Karlo's own checkpoints; their `state_dict` holds every network under a
    prefix.
    """
    paths = {
        part: find_file(folder, [name], BY_HAND) for part, name in KARLO_FILES.items()
    }
    mean, std = _statistics(paths["stats"])  # (D,) each

    prior_tensors = Selected(_state_dict(paths["prior"]), "model.")
    prior = pour(
        lambda: DiffusionPrior(config.prior),
        keys.karlo_prior_tensors(prior_tensors, config.prior.heads),
        paths["prior"],
        len(prior_tensors),
        extra={"mean": mean, "std": std},
        **target.keywords(),
    )
    decoder_tensors = Selected(_state_dict(paths["decoder"]), "model.")
    decoder = pour(
        lambda: Decoder(config.decoder),
        keys.karlo_decoder_tensors(decoder_tensors, config.decoder.unet),
        paths["decoder"],
        len(decoder_tensors),
        **target.keywords(),
    )
    upsampler_tensors = _state_dict(paths["upsampler"])

    # two networks in one file, told apart by their prefix
    def upsampler(prefix: str) -> Upsampler:
        tensors = Selected(upsampler_tensors, prefix)
        return pour(
            lambda: Upsampler(config.upsampler),
            keys.upsampler_tensors(tensors, config.upsampler.unet),
            paths["upsampler"],
            len(tensors),
            **target.keywords(),
        )

    return Karlo(
        clip=_checkpoint_clip(paths["clip"], target),
        prior=prior,
        decoder=decoder,
        first=upsampler("model_first_steps."),
        last=upsampler("model_last_step."),
        prior_clip=config.prior_clip,
    )


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of the image embeddings."""
    found = open_object(path)
    pair = list(found) if isinstance(found, (list, tuple)) else []
    pair_of_tensors = len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)
    if not pair_of_tensors:
        raise Dalle2EduError(
            f"{path} is no statistics file of Karlo: expected two tensors."
        )
    return pair[0], pair[1]


def _state_dict(path: Path) -> Any:
    checkpoint = open_weights(path)
    if "state_dict" not in checkpoint:
        found = ", ".join(list(checkpoint)[:3])
        raise Dalle2EduError(
            f"{path} is no checkpoint of Karlo: it has no 'state_dict' but {found}, ..."
        )
    return checkpoint["state_dict"]


def _checkpoint_clip(path: Path, target: Target) -> Clip:
    """OpenAI's ViT-L-14.pt, a TorchScript archive, or a plain state dict with its
    keys; the sizes follow from the shapes.
    """
    official = open_weights(path)
    # stored beside the weights in OpenAI's archive
    sizes = ("input_resolution", "context_length", "vocab_size")
    named = {key: tensor for key, tensor in official.items() if key not in sizes}
    try:
        build = clip_from_shapes(named)
    except KeyError as error:
        raise Dalle2EduError(
            f"{path} is no CLIP of OpenAI's: it has no {error}."
        ) from error
    return _clip(
        pour(build, iter(named.items()), path, len(named), **target.keywords())
    )


def clip_from_shapes(state: dict[str, Tensor]) -> Any:
    """What builds the CLIP with these tensors: OpenAI's transformers have 64 channels
    a head.
    """
    import open_clip  # here, since it takes seconds

    conv = state["visual.conv1.weight"]  # (width, 3, patch, patch)
    width = conv.shape[0]
    patch = conv.shape[-1]
    patches = len(state["visual.positional_embedding"]) - 1  # less the class token
    vision = open_clip.CLIPVisionCfg(
        layers=_depth(state, "visual."),
        width=width,
        head_width=min(64, width),
        patch_size=patch,
        image_size=patch * math.isqrt(patches),  # patches a row, times their width
    )
    text_width = state["ln_final.weight"].shape[0]
    text = open_clip.CLIPTextCfg(
        context_length=len(state["positional_embedding"]),
        vocab_size=len(state["token_embedding.weight"]),
        width=text_width,
        heads=max(1, text_width // 64),
        layers=_depth(state, ""),
    )
    embed_dim = state["text_projection"].shape[1]
    # OpenAI trained with QuickGELU
    return lambda: open_clip.CLIP(embed_dim, vision, text, quick_gelu=True)


def _depth(state: dict[str, Tensor], prefix: str) -> int:
    """How many blocks the transformer under this prefix has."""
    start = f"{prefix}transformer.resblocks."
    blocks = [key.removeprefix(start) for key in state if key.startswith(start)]
    return 1 + max(int(block.split(".")[0]) for block in blocks)


def _clip(model: Any) -> Clip:
    """An open_clip model as Karlo reads it: not normalised."""
    length = model.context_length
    like = model.positional_embedding
    # causal: a text's token looks only at those before it
    mask = torch.full((length, length), -math.inf, device=like.device, dtype=like.dtype)
    model.attn_mask = mask.triu(1)  # no weight, so no file holds it
    clip = wrap_open_clip(model)
    clip.normalize = False
    return clip.eval()


# --- diffusers' folder ----------------------------------------------------------------

WEIGHTS = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"]
CLIP_WEIGHTS = ["model.safetensors", "pytorch_model.bin"]


def _from_diffusers(folder: Path, target: Target) -> Karlo:
    """The folder that diffusers made: a config and weights for each network."""
    prior_config = _prior_config(_config(folder, "prior"))
    # the decoder's file lacks the text side: `text_proj` has it
    unet = unet_config(_config(folder, "decoder"))
    emb_dim = _config(folder, "text_proj")["clip_embeddings_dim"]
    decoder_config = DecoderConfig(clip_dim=emb_dim, text_width=emb_dim, unet=unet)
    upsampler_config = UpsamplerConfig(
        schedule="cosine", unet=unet_config(_config(folder, "super_res_first"))
    )

    def part(name: str, build: Any, mapped: Any) -> Any:
        path = find_file(folder / name, WEIGHTS, BY_HAND)
        official = open_weights(path)
        return pour(build, mapped(official), path, len(official), **target.keywords())

    def decoder_tensors(official: Any) -> Iterator[tuple[str, Tensor]]:
        proj_path = find_file(folder / "text_proj", WEIGHTS, BY_HAND)
        yield from diffusers_keys.text_proj_tensors(open_weights(proj_path))
        yield from diffusers_keys.unet_tensors(official, unet.num_res_blocks)

    def upsampler(name: str) -> Upsampler:
        blocks = upsampler_config.unet.num_res_blocks
        return part(
            name,
            lambda: Upsampler(upsampler_config),
            lambda official: diffusers_keys.unet_tensors(official, blocks),
        )

    return Karlo(
        clip=_diffusers_clip(folder, target),
        prior=part(
            "prior", lambda: DiffusionPrior(prior_config), diffusers_keys.prior_tensors
        ),
        decoder=part("decoder", lambda: Decoder(decoder_config), decoder_tensors),
        first=upsampler("super_res_first"),
        last=upsampler("super_res_last"),
        prior_clip=_prior_clip(folder / "prior_scheduler" / "scheduler_config.json"),
    )


def _prior_config(theirs: dict[str, Any]) -> PriorConfig:
    """Our prior's config from `PriorTransformer`'s."""
    heads = theirs["num_attention_heads"]
    return PriorConfig(
        clip_dim=theirs["embedding_dim"],
        text_width=theirs["embedding_dim"],
        context_length=theirs["num_embeddings"],
        width=heads * theirs["attention_head_dim"],  # 32 heads of 64
        layers=theirs["num_layers"],
        heads=heads,
    )


def _prior_clip(scheduler: Path) -> float:
    """Where the prior's prediction is clipped, as the scheduler's file says."""
    if not scheduler.is_file():
        return KARLO_PRIOR_CLIP
    return _read_json(scheduler).get("clip_sample_range", KARLO_PRIOR_CLIP)


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    if not path.is_file():
        raise Dalle2EduError(
            f"There is no {path}; the folder is not complete. To get it by hand: {BY_HAND}"
        )
    return _read_json(path)


class Fields(dict[str, Any]):
    """A config file's fields; a missing one raises an error with the file's name."""

    def __init__(self, path: Path, fields: dict[str, Any]):
        super().__init__(fields)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise Dalle2EduError(
            f"{self.path} has no field {key!r}; fetch it again: {BY_HAND}"
        )


def _read_json(path: Path) -> Fields:
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise Dalle2EduError(f"{path} holds no fields; fetch it again: {BY_HAND}")
    return Fields(path, fields)


def unet_config(theirs: dict[str, Any]) -> UNetConfig:
    """Our U-Net's config from `UNet2DConditionModel`'s or `UNet2DModel`'s."""
    widths = theirs["block_out_channels"]
    kinds = theirs["down_block_types"]
    attends = [i for i, kind in enumerate(kinds) if "CrossAttn" in kind]
    return UNetConfig(
        image_size=theirs["sample_size"],
        in_channels=theirs["in_channels"],
        out_channels=theirs["out_channels"],
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),  # 320, 640 => 1, 2
        num_res_blocks=theirs["layers_per_block"],
        attention_levels=tuple(attends),
        head_channels=theirs.get("attention_head_dim") or 64,
        scale_shift_norm=theirs.get("resnet_time_scale_shift") == "scale_shift",
        middle_attention=bool(attends),
        context_dim=theirs.get("cross_attention_dim") if attends else None,
        norm_groups=theirs.get("norm_num_groups") or 32,
    )


def _diffusers_clip(folder: Path, target: Target) -> Clip:
    """The text tower and, if the folder has one, the image tower, in one open_clip
    model.
    """
    text = _config(folder, "text_encoder")
    vision = None
    towers = ["text_encoder"]
    if (folder / "image_encoder" / "config.json").is_file():
        vision = _config(folder, "image_encoder")
        towers.append("image_encoder")
    paths = [find_file(folder / tower, CLIP_WEIGHTS, BY_HAND) for tower in towers]
    files = [open_weights(path) for path in paths]
    model = pour(
        lambda: _towers(text, vision),
        (pair for file in files for pair in diffusers_keys.clip_tensors(file)),
        paths[0],
        sum(len(file) for file in files),
        # used in training only, and not in these files
        extra={"logit_scale": torch.tensor(math.log(100))},
        **target.keywords(),
    )
    return _clip(model)


def _towers(text: dict[str, Any], vision: dict[str, Any] | None) -> Any:
    """open_clip's model of these sizes. Without an image tower a tiny one is built,
    and thrown away.
    """
    import open_clip  # here, since it takes seconds

    text_config = open_clip.CLIPTextCfg(
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        width=text["hidden_size"],
        heads=text["num_attention_heads"],
        layers=text["num_hidden_layers"],
        mlp_ratio=_mlp_ratio(text),
    )
    model = open_clip.CLIP(
        text["projection_dim"],
        _vision_config(vision or NO_VISION),
        text_config,
        quick_gelu=text.get("hidden_act", "quick_gelu") == "quick_gelu",
    )
    if vision is None:
        del model.visual
    return model


NO_VISION = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "patch_size": 8,
    "image_size": 8,
}


def _vision_config(vision: dict[str, Any]) -> Any:
    import open_clip  # here, since it takes seconds

    return open_clip.CLIPVisionCfg(
        layers=vision["num_hidden_layers"],
        width=vision["hidden_size"],
        head_width=vision["hidden_size"] // vision["num_attention_heads"],
        mlp_ratio=_mlp_ratio(vision),
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
    )


def _mlp_ratio(theirs: dict[str, Any]) -> float:
    """How many times wider the hidden layer of each block is."""
    width = theirs["hidden_size"]
    return theirs.get("intermediate_size", 4 * width) / width
