"""From the official state dicts of ADM, GLIDE and Karlo to ours.

The released networks are the ones that this book builds, under other field names and with two differences of layout:

- ADM's blocks number their parts (`in_layers.0`, `out_layers.3`); ours name them (`norm1`, `conv2`).
- Their attention keeps query, key and value of one head side by side, [q|k|v] per head ("legacy order"); ours keeps all
  queries, then all keys, then all values, which is also ADM's `use_new_attention_order`. `heads_last` reorders.

Each function takes an official state dict (keys and tensors) and returns one that the class's `load_state_dict` accepts
strictly: every official key is used exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.decoder import IMAGE_TOKENS

State = dict[str, Tensor]

RES_PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
ATTENTION_PARTS = {"norm": "norm", "qkv": "qkv", "encoder_kv": "context_kv", "proj_out": "proj"}
TRANSFORMER_PARTS = {
    "ln_1": "norm1",
    "attn.c_qkv": "qkv",
    "attn.c_proj": "proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}
OUTSIDE_BLOCKS = {
    "time_embed": "time_mlp",
    "input_blocks.0.0": "stem",
    "out.0": "norm_out",
    "out.2": "head",
    "label_emb": "class_emb",
}


def unet_state(official: Mapping[str, Tensor], config: UNetConfig, legacy_order: bool = True) -> State:
    """An ADM-style U-Net's (or classifier's) official tensors under our names."""
    heads_of = {"qkv": 3, "context_kv": 2}
    state = {}
    for key, tensor in official.items():
        name = unet_key(key)
        part = name.rsplit(".", 2)[-2]
        if part in (*heads_of, "proj") and ".attention." in name and tensor.ndim == 3:
            tensor = tensor.squeeze(-1)  # a 1x1 convolution over positions is a linear layer
        if legacy_order and part in heads_of:
            tensor = heads_last(tensor, heads_of[part], config.head_channels)
        state[name] = tensor
    return state


def unet_key(key: str) -> str:
    """One official U-Net key under our name; raises Dalle2EduError if there is none."""
    for prefix, ours in OUTSIDE_BLOCKS.items():
        if key.startswith(prefix + "."):
            return ours + key[len(prefix) :]
    if match := re.fullmatch(r"(input_blocks|output_blocks|middle_block)\.(\d+)\.(.+)", key):
        side, number, rest = match.groups()
        if side == "middle_block":
            kind, name = _part(rest)
            return (
                f"middle.{kind}.{name}"
                if kind == "attention"
                else f"middle.{'res1' if number == '0' else 'res2'}.{name}"
            )
        child, rest = rest.split(".", 1)
        kind, name = _part(rest)
        if kind == "res" and child != "0":
            kind = "upsample"  # a second residual block in one rung doubles the picture
        where = f"down.{int(number) - 1}" if side == "input_blocks" else f"up.{number}"
        return f"{where}.{kind}.{name}"
    raise Dalle2EduError(f"No place for the official key {key!r} in our U-Net.")


def _part(rest: str) -> tuple[str, str]:
    """'in_layers.0.weight' -> ('res', 'norm1.weight'), 'qkv.bias' -> ('attention', 'qkv.bias')."""
    part, kind = rest.rsplit(".", 1)
    if part in RES_PARTS:
        return "res", f"{RES_PARTS[part]}.{kind}"
    if part in ATTENTION_PARTS:
        return "attention", f"{ATTENTION_PARTS[part]}.{kind}"
    raise Dalle2EduError(f"No place for the official block part {rest!r} in our U-Net.")


def heads_last(tensor: Tensor, parts: int, head_channels: int) -> Tensor:
    """Reorder rows from [q|k|v] per head to all q, all k, all v: (heads * parts * c, ...) -> (parts * heads * c,
    ...).
    """
    per_head = tensor.unflatten(0, (-1, parts, head_channels))  # (heads, parts, c, ...)
    return per_head.transpose(0, 1).flatten(0, 2)


def transformer_state(official: Mapping[str, Tensor], heads: int) -> State:
    """GLIDE's and Karlo's transformer, keys 'resblocks.N.…' without their prefix, under our names."""
    state = {}
    for key, tensor in official.items():
        match = re.fullmatch(r"resblocks\.(\d+)\.(.+)\.(weight|bias)", key)
        if match is None or match[2] not in TRANSFORMER_PARTS:
            raise Dalle2EduError(f"No place for the official key {key!r} in our transformer.")
        if match[2] == "attn.c_qkv":
            tensor = heads_last(tensor, 3, tensor.shape[0] // (3 * heads))
        state[f"blocks.{match[1]}.{TRANSFORMER_PARTS[match[2]]}.{match[3]}"] = tensor
    return state


def classifier_state(official: Mapping[str, Tensor], config: UNetConfig) -> State:
    """ADM's noised classifier (`EncoderUNetModel` with attention pooling) under our names."""
    pool = {key: tensor for key, tensor in official.items() if key.startswith("out.2.")}
    state = unet_state({key: tensor for key, tensor in official.items() if key not in pool}, config)
    state["pool.positional"] = pool["out.2.positional_embedding"].T  # (C, 1 + H*W) => (1 + H*W, C)
    for theirs, ours in (("qkv_proj", "qkv"), ("c_proj", "proj")):
        state[f"pool.{ours}.weight"] = pool[f"out.2.{theirs}.weight"].squeeze(-1)
        state[f"pool.{ours}.bias"] = pool[f"out.2.{theirs}.bias"]
    return state


def glide_state(official: Mapping[str, Tensor], config: UNetConfig, heads: int) -> State:
    """GLIDE's `Text2ImUNet`: its text side and its U-Net stand in one flat dict."""
    renamed = {
        "token_embedding.weight": "token.weight",
        "positional_embedding": "position",
        "padding_embedding": "padding",
        "final_ln.weight": "norm.weight",
        "final_ln.bias": "norm.bias",
        "transformer_proj.weight": "pooled_proj.weight",
        "transformer_proj.bias": "pooled_proj.bias",
    }
    state = {f"text.{ours}": official[theirs] for theirs, ours in renamed.items()}
    blocks = _strip(official, "transformer.")
    state |= _prefix("text.transformer.", transformer_state(blocks, heads))
    net = {key: t for key, t in official.items() if key not in renamed and not key.startswith("transformer.")}
    return state | _prefix("unet.", unet_state(net, config))


def karlo_prior_state(official: Mapping[str, Tensor], heads: int) -> State:
    """Karlo's `PriorTransformer`. Its statistics come in a file of their own: give them to `mean` and `std`."""
    renamed = {
        "clip_img_proj": "z_proj",
        "text_emb_proj": "text_emb_proj",
        "text_enc_proj": "text_enc_proj",
        "final_ln": "norm_out",
        "out_proj": "out",
        "time_embed.0": "time_mlp.0",
        "time_embed.2": "time_mlp.2",
    }
    state = {f"{ours}.{kind}": official[f"{theirs}.{kind}"] for theirs, ours in renamed.items() for kind in KINDS}
    state |= {"position": official["positional_embedding"], "query": official["prd_emb"]}
    return state | _prefix("transformer.", transformer_state(_strip(official, "transformer."), heads))


def karlo_decoder_state(official: Mapping[str, Tensor], config: UNetConfig) -> State:
    """Karlo's decoder, `PLMImUNet`. Its extra tokens count the token index fastest; ours slowest."""
    renamed = {
        "clip_emb": "image_to_time",
        "clip_tok_proj": "image_to_tokens",
        "text_feat_proj": "text_to_time",
        "text_seq_proj.0": "text_to_tokens.0",
        "text_seq_proj.1": "text_to_tokens.1",
    }
    state = {f"{ours}.{kind}": official[f"{theirs}.{kind}"] for theirs, ours in renamed.items() for kind in KINDS}
    for kind in KINDS:  # rows (width, tokens) => (tokens, width)
        rows = state[f"image_to_tokens.{kind}"].unflatten(0, (-1, IMAGE_TOKENS))
        state[f"image_to_tokens.{kind}"] = rows.transpose(0, 1).flatten(0, 1)
    state["null_image_emb"] = official["cf_param"]
    outside = {f"{theirs}.{kind}" for theirs in renamed for kind in KINDS} | {"cf_param"}
    net = {key: tensor for key, tensor in official.items() if key not in outside}
    return state | _prefix("unet.", unet_state(net, config))


KINDS = ("weight", "bias")


def _strip(state: Mapping[str, Tensor], prefix: str) -> State:
    return {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}


def _prefix(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def unet_config(official: Mapping, in_channels: int | None = None, context_dim: int | None = None) -> UNetConfig:
    """Our config from an official constructor's arguments. `attention_resolutions` there are downsampling factors."""
    factors = official.get("attention_resolutions", ())
    return UNetConfig(
        image_size=official["image_size"],
        in_channels=in_channels or official["in_channels"],
        out_channels=official["out_channels"],
        channels=official["model_channels"],
        channel_mult=tuple(official["channel_mult"]),
        num_res_blocks=official["num_res_blocks"],
        attention_levels=tuple(sorted(factor.bit_length() - 1 for factor in factors)),
        head_channels=official.get("num_head_channels", 64),
        dropout=official.get("dropout", 0.0),
        scale_shift_norm=official.get("use_scale_shift_norm", False),
        middle_attention=official.get("use_middle_attention", True),
        context_dim=context_dim,
        num_classes=official.get("num_classes"),
    )


def load_strictly(module: torch.nn.Module, state: State, skip: tuple[str, ...] = ()) -> torch.nn.Module:
    """Load a mapped state dict; every tensor of the module but those in `skip` must be there, and nothing else."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [key for key in missing if key not in skip]
    if missing or unexpected:
        raise Dalle2EduError(f"The weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}.")
    return module.eval()
