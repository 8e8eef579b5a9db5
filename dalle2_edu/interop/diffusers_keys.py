"""From diffusers' state dicts of Karlo to ours: the same networks a third time, under a
third set of names.

diffusers counts blocks by resolution (`down_blocks.1.resnets.0`) where ours count them
one after the other, and keeps query, key and value apart where ours keep them in one
matrix.

As in `keys`, each function yields our name and our tensor, and uses each of their keys
once. Chapter 24 uses this file.
"""

from __future__ import annotations

import re

import torch

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop.keys import KINDS, Named, Official
from dalle2_edu.unclip.decoder import IMAGE_TOKENS

UNET_OUTSIDE = {
    "conv_in": "stem",
    "conv_norm_out": "norm_out",
    "conv_out": "head",
    "time_embedding.linear_1": "time_mlp.0",
    "time_embedding.linear_2": "time_mlp.2",
}
RES_PARTS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "skip",
}
ATTENTION_PARTS = {"group_norm": "norm", "to_out.0": "proj"}
MERGED = {  # the first of those that we keep in one matrix stands for all
    "to_q": ("qkv", ("to_q", "to_k", "to_v")),
    "add_k_proj": ("context_kv", ("add_k_proj", "add_v_proj")),
}
MERGED_AWAY = ("to_k", "to_v", "add_v_proj")


def unet_tensors(
    official: Official, num_res_blocks: int, prefix: str = "unet."
) -> Named:
    """`UNet2DConditionModel` (the decoder) or `UNet2DModel` (an upsampler)."""
    for key in official:
        where, _, kind = key.rpartition(".")
        if where in UNET_OUTSIDE:
            yield f"{prefix}{UNET_OUTSIDE[where]}.{kind}", official[key]
            continue
        block, part = _block(where, num_res_blocks)  # "down.4.res", "norm1"
        yield from _renamed(
            official,
            key,
            f"{prefix}{block}",
            part,
            kind,
            {**RES_PARTS, **ATTENTION_PARTS},
        )


def _block(where: str, num_res_blocks: int) -> tuple[str, str]:
    """'down_blocks.1.resnets.0.norm1' -> ('down.4.res', 'norm1')."""
    match = re.fullmatch(
        r"(down|up|mid)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)",
        where,
    )
    if match is None:
        raise Dalle2EduError(f"No place for diffusers' key {where!r} in our U-Net.")
    side, level, what, number, part = match.groups()
    if side == "mid":
        kind = "attention" if what == "attentions" else f"res{int(number) + 1}"
        return f"middle.{kind}", part
    last = what in ("downsamplers", "upsamplers")  # at the end of a resolution's blocks
    # a halving is a separate block; a doubling sits in the last block of its resolution
    within = num_res_blocks if last else int(number)
    place = int(level) * (num_res_blocks + 1) + within
    kind = {
        "resnets": "res",
        "attentions": "attention",
        "downsamplers": "res",
        "upsamplers": "upsample",
    }[what]
    return f"{side}.{place}.{kind}", part


def _renamed(
    official: Official,
    key: str,
    block: str,
    part: str,
    kind: str,
    parts: dict[str, str],
) -> Named:
    """One tensor of a block; or, for the first of several that we keep in one, all of
    them one below the other.
    """
    if part in MERGED:
        ours, theirs = MERGED[part]
        stem = key.removesuffix(f"{part}.{kind}")
        matrices = [official[f"{stem}{name}.{kind}"] for name in theirs]
        yield f"{block}.{ours}.{kind}", torch.cat(matrices)  # one below the other
    elif part in parts:
        yield f"{block}.{parts[part]}.{kind}", official[key]
    elif part not in MERGED_AWAY:  # those were taken with the first
        raise Dalle2EduError(f"No place for diffusers' key {key!r} in our networks.")


PRIOR_OUTSIDE = {
    "positional_embedding": "position",
    "prd_embedding": "query",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "time_embedding.linear_1": "time_mlp.0",
            "time_embedding.linear_2": "time_mlp.2",
            "proj_in": "z_proj",
            "embedding_proj": "text_emb_proj",
            "encoder_hidden_states_proj": "text_enc_proj",
            "norm_out": "norm_out",
            "proj_to_clip_embeddings": "out",
        }.items()
        for kind in KINDS
    },
}
PRIOR_PARTS = {
    "norm1": "norm1",
    "norm3": "norm2",
    "to_out.0": "proj",
    "ff.net.0.proj": "mlp.0",
    "ff.net.2": "mlp.2",
}


def prior_tensors(official: Official) -> Named:
    """`PriorTransformer`, statistics and all."""
    for key in official:
        if key in PRIOR_OUTSIDE:
            yield PRIOR_OUTSIDE[key], official[key]
        elif key in ("clip_mean", "clip_std"):
            yield key.removeprefix("clip_"), official[key][0]  # (1, D) => (D,)
        elif match := re.fullmatch(
            r"transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", key
        ):
            number, part, kind = match.groups()
            block = f"transformer.blocks.{number}"
            yield from _renamed(
                official, key, block, part.removeprefix("attn1."), kind, PRIOR_PARTS
            )
        else:
            raise Dalle2EduError(f"No place for diffusers' key {key!r} in our prior.")


TEXT_PROJ = {
    "embedding_proj": "text_to_time",
    "clip_image_embeddings_project_to_time_embeddings": "image_to_time",
    "clip_extra_context_tokens_proj": "image_to_tokens",
    "encoder_hidden_states_proj": "text_to_tokens.0",
    "text_encoder_hidden_states_norm": "text_to_tokens.1",
}


def text_proj_tensors(official: Official) -> Named:
    """`UnCLIPTextProjModel`: what the decoder has outside its U-Net."""
    for key in official:
        where, _, kind = key.rpartition(".")
        if key == "learned_classifier_free_guidance_embeddings":
            yield "null_image_emb", official[key]
        # rows (width, tokens) => (tokens, width)
        elif TEXT_PROJ.get(where) == "image_to_tokens":
            rows = official[key].unflatten(0, (-1, IMAGE_TOKENS))
            yield f"image_to_tokens.{kind}", rows.transpose(0, 1).flatten(0, 1)
        elif where in TEXT_PROJ:
            yield f"{TEXT_PROJ[where]}.{kind}", official[key]
        else:
            raise Dalle2EduError(f"No place for diffusers' key {key!r} in our decoder.")


CLIP_TEXT = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
CLIP_VISION = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
CLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def clip_tensors(official: Official) -> Named:
    """`CLIPTextModelWithProjection` or `CLIPVisionModelWithProjection` under
    open_clip's names.
    """
    outside = CLIP_TEXT | CLIP_VISION
    for key in official:
        if key in outside:
            tensor = official[key]
            # open_clip keeps W of x @ W; a linear layer keeps its transpose
            if key in ("text_projection.weight", "visual_projection.weight"):
                tensor = tensor.T
            yield outside[key], tensor
        elif match := re.fullmatch(
            r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key
        ):
            tower, number, part, kind = match.groups()
            tower_name = "visual." if tower == "vision" else ""
            block = f"{tower_name}transformer.resblocks.{number}"
            if part == "self_attn.q_proj":
                names = [key.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
                three = [official[name] for name in names]
                yield f"{block}.attn.in_proj_{kind}", torch.cat(three)
            elif part in CLIP_PARTS:
                yield f"{block}.{CLIP_PARTS[part]}.{kind}", official[key]
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                raise Dalle2EduError(f"No place for the key {key!r} in CLIP.")
        # older files list the positions 0, 1, 2, ... as if they were learned
        elif not key.endswith("position_ids"):
            raise Dalle2EduError(f"No place for the key {key!r} in CLIP.")
