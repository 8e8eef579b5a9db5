"""From the official state dicts of ADM, GLIDE and Karlo to ours.

The released networks are the ones that this book builds, under other field names and
with two differences of layout:

- ADM's blocks number their parts (`in_layers.0`, `out_layers.3`); ours name them
  (`norm1`, `conv2`).
- Their attention keeps query, key and value of one head side by side, [q|k|v] per head
  ("legacy order"); ours keeps all queries, then all keys, then all values, which is
  also ADM's `use_new_attention_order`. `heads_last` reorders.

Each function takes an official state dict and yields our name and our tensor for one
official key after the other: each key is used exactly once, and only one tensor is in
memory at a time if the dict reads its tensors when asked. `weights.pour` puts them into
a module.

Chapter 24 uses this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.decoder import IMAGE_TOKENS

Official = Mapping[str, Tensor]
Named = Iterator[tuple[str, Tensor]]  # our name, our tensor
KINDS = ("weight", "bias")

RES_PARTS = {  # the numbers left out are SiLU and dropout: they hold no weights
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
ATTENTION_PARTS = {
    "norm": "norm",
    "qkv": "qkv",
    "encoder_kv": "context_kv",
    "proj_out": "proj",
}
TRANSFORMER_PARTS = {
    "ln_1": "norm1",
    "attn.c_qkv": "qkv",
    "attn.c_proj": "proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
}
OUTSIDE_BLOCKS = {  # out.1 is a SiLU
    "time_embed": "time_mlp",
    "input_blocks.0.0": "stem",
    "out.0": "norm_out",
    "out.2": "head",
    "label_emb": "class_emb",
}


def unet_tensors(
    official: Official, config: UNetConfig, legacy_order: bool = True
) -> Named:
    """An ADM-style U-Net's (or classifier's) official tensors under our names."""
    for key in official:
        yield unet_tensor(key, official[key], config, legacy_order)


def unet_tensor(
    key: str, tensor: Tensor, config: UNetConfig, legacy_order: bool = True
) -> tuple[str, Tensor]:
    """One of them."""
    name = unet_key(key)
    heads_of = {"qkv": 3, "context_kv": 2}  # how many matrices lie in one
    part = name.rsplit(".", 2)[-2]  # the layer: "...qkv.weight"
    in_attention = part in (*heads_of, "proj") and ".attention." in name
    if in_attention and tensor.ndim == 3:
        # a 1x1 convolution over positions is a linear layer
        tensor = tensor.squeeze(-1)
    if legacy_order and part in heads_of:
        tensor = heads_last(tensor, heads_of[part], config.head_channels)
    return name, tensor


def unet_key(key: str) -> str:
    """One official U-Net key under our name; raises Dalle2EduError if there is none."""
    for prefix, ours in OUTSIDE_BLOCKS.items():
        if key.startswith(prefix + "."):
            return ours + key[len(prefix) :]
    blocks = r"(input_blocks|output_blocks|middle_block)\.(\d+)\.(.+)"
    if match := re.fullmatch(blocks, key):
        side, number, rest = match.groups()
        if side == "middle_block":
            kind, name = _part(rest)
            res = "res1" if number == "0" else "res2"  # 0, attention, 2
            place = "attention" if kind == "attention" else res
            return f"middle.{place}.{name}"
        child, rest = rest.split(".", 1)
        kind, name = _part(rest)
        if kind == "res" and child != "0":
            kind = "upsample"  # a second residual block in one rung doubles the picture
        # input block 0 is the stem
        where = f"down.{int(number) - 1}" if side == "input_blocks" else f"up.{number}"
        return f"{where}.{kind}.{name}"
    raise Dalle2EduError(f"No place for the official key {key!r} in our U-Net.")


def _part(rest: str) -> tuple[str, str]:
    """'in_layers.0.weight' -> ('res', 'norm1.weight'), 'qkv.bias' -> ('attention',
    'qkv.bias').
    """
    part, kind = rest.rsplit(".", 1)
    if part in RES_PARTS:
        return "res", f"{RES_PARTS[part]}.{kind}"
    if part in ATTENTION_PARTS:
        return "attention", f"{ATTENTION_PARTS[part]}.{kind}"
    raise Dalle2EduError(f"No place for the official block part {rest!r} in our U-Net.")


def heads_last(tensor: Tensor, parts: int, head_channels: int) -> Tensor:
    """Reorder rows from [q|k|v] per head to all q, all k, all v: (heads * parts * c,
    ...) -> (parts * heads * c, ...).
    """
    per_head = tensor.unflatten(0, (-1, parts, head_channels))  # (heads, parts, c, ...)
    by_part = per_head.transpose(0, 1)  # (parts, heads, c, ...)
    return by_part.flatten(0, 2)


def transformer_tensor(key: str, tensor: Tensor, heads: int) -> tuple[str, Tensor]:
    """One tensor of GLIDE's and Karlo's transformer, key 'resblocks.N.…' without its
    prefix.
    """
    match = re.fullmatch(r"resblocks\.(\d+)\.(.+)\.(weight|bias)", key)
    if match is None or match[2] not in TRANSFORMER_PARTS:
        raise Dalle2EduError(
            f"No place for the official key {key!r} in our transformer."
        )
    if match[2] == "attn.c_qkv":
        tensor = heads_last(tensor, 3, tensor.shape[0] // (3 * heads))
    name = TRANSFORMER_PARTS[match[2]]
    return f"blocks.{match[1]}.{name}.{match[3]}", tensor


def classifier_tensors(official: Official, config: UNetConfig) -> Named:
    """ADM's noised classifier (`EncoderUNetModel` with attention pooling) under our
    names.
    """
    pool = {"out.2.positional_embedding": "pool.positional"}
    pool |= {f"out.2.qkv_proj.{kind}": f"pool.qkv.{kind}" for kind in KINDS}
    pool |= {f"out.2.c_proj.{kind}": f"pool.proj.{kind}" for kind in KINDS}
    for key in official:
        if key == "out.2.positional_embedding":
            yield pool[key], official[key].T  # (C, 1 + H*W) => (1 + H*W, C)
        elif key in pool:
            tensor = official[key]
            if tensor.ndim == 3:  # a 1x1 convolution over positions
                tensor = tensor.squeeze(-1)
            yield pool[key], tensor
        else:
            yield unet_tensor(key, official[key], config)


GLIDE_OUTSIDE = {
    "token_embedding.weight": "text.token.weight",
    "positional_embedding": "text.position",
    "padding_embedding": "text.padding",
    "final_ln.weight": "text.norm.weight",
    "final_ln.bias": "text.norm.bias",
    "transformer_proj.weight": "text.pooled_proj.weight",
    "transformer_proj.bias": "text.pooled_proj.bias",
}


def glide_tensors(official: Official, config: UNetConfig, heads: int) -> Named:
    """GLIDE's `Text2ImUNet` and its three relatives: text side and U-Net stand in one
    flat dict.
    """
    return _assembled(official, GLIDE_OUTSIDE, "text.", config, heads)


KARLO_PRIOR_OUTSIDE = {
    "positional_embedding": "position",
    "prd_emb": "query",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "clip_img_proj": "z_proj",
            "text_emb_proj": "text_emb_proj",
            "text_enc_proj": "text_enc_proj",
            "final_ln": "norm_out",
            "out_proj": "out",
            "time_embed.0": "time_mlp.0",
            "time_embed.2": "time_mlp.2",
        }.items()
        for kind in KINDS
    },
}


def karlo_prior_tensors(official: Official, heads: int) -> Named:
    """Karlo's `PriorTransformer`. Its statistics come in a separate file: they go to
    `mean` and `std`.
    """
    return _assembled(official, KARLO_PRIOR_OUTSIDE, "", None, heads)


KARLO_DECODER_OUTSIDE = {
    "cf_param": "null_image_emb",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "clip_emb": "image_to_time",
            "clip_tok_proj": "image_to_tokens",
            "text_feat_proj": "text_to_time",
            "text_seq_proj.0": "text_to_tokens.0",
            "text_seq_proj.1": "text_to_tokens.1",
        }.items()
        for kind in KINDS
    },
}


def karlo_decoder_tensors(official: Official, config: UNetConfig) -> Named:
    """Karlo's decoder, `PLMImUNet`. Its extra tokens count the token index fastest;
    ours slowest.
    """
    for name, tensor in _assembled(official, KARLO_DECODER_OUTSIDE, "", config, 0):
        # rows (width, tokens) => (tokens, width)
        if name.startswith("image_to_tokens."):
            by_token = tensor.unflatten(0, (-1, IMAGE_TOKENS)).transpose(0, 1)
            tensor = by_token.flatten(0, 1)
        yield name, tensor


def upsampler_tensors(official: Official, config: UNetConfig) -> Named:
    """Karlo's `SuperResUNetModel`: a U-Net and nothing else."""
    return _assembled(official, {}, "", config, 0)


def _assembled(
    official: Official,
    outside: Mapping[str, str],
    text: str,
    config: UNetConfig | None,
    heads: int,
) -> Named:
    """A network made of a transformer (`text` is the prefix of ours), a U-Net and parts
    that stand outside of both.
    """
    for key in official:
        if key in outside:
            yield outside[key], official[key]
        elif key.startswith("transformer."):
            name, tensor = transformer_tensor(
                key.removeprefix("transformer."), official[key], heads
            )
            yield f"{text}transformer.{name}", tensor
        elif config is not None:
            # what belongs to nothing else is the U-Net's, which refuses what it lacks
            name, tensor = unet_tensor(key, official[key], config)
            yield f"unet.{name}", tensor
        else:
            raise Dalle2EduError(f"No place for the official key {key!r} in our prior.")


DVAE_KINDS = {"w": "weight", "b": "bias"}
DVAE_PARTS = {"input": "stem", "output.conv": "head"}


def dvae_tensors(official: Official) -> Named:
    """OpenAI's dVAE encoder or decoder; its convolutions call their tensors w and b."""
    for key in official:
        where, _, kind = key.removeprefix("blocks.").rpartition(".")
        group = r"group_(\d+)\.block_(\d+)\.(id_path|res_path\.conv_(\d+))"  # from 1
        if match := re.fullmatch(group, where):
            block = f"groups.{int(match[1]) - 1}.{int(match[2]) - 1}"
            conv = match[4]
            where = f"{block}.convs.{int(conv) - 1}" if conv else f"{block}.skip"
        elif where in DVAE_PARTS:
            where = DVAE_PARTS[where]
        else:
            raise Dalle2EduError(f"No place for the official key {key!r} in our dVAE.")
        yield f"{where}.{DVAE_KINDS[kind]}", official[key]


VQVAE2_PARTS = {
    "enc_b": "encoder_bottom",
    "enc_t": "encoder_top",
    "dec_t": "decoder_top",
    "dec": "decoder",
    "quantize_conv_t": "to_top",
    "quantize_conv_b": "to_bottom",
    "quantize_t": "top",
    "quantize_b": "bottom",
    "upsample_t": "upsample_top",
}
VQVAE2_BUFFERS = {"embed": "codebook", "cluster_size": "counts", "embed_avg": "sums"}


def vqvae2_tensors(official: Official, blocks: int) -> Named:
    """VQ-VAE-2 as rosinality/vq-vae-2-pytorch names it: layers by their place in a
    `Sequential`, codebooks (D, K).
    """
    for key, tensor in official.items():
        part, _, rest = key.partition(".")
        ours = VQVAE2_PARTS.get(part)
        if ours is None:
            raise Dalle2EduError(f"No place for the official key {key!r} in VQ-VAE-2.")
        if rest in VQVAE2_BUFFERS:
            name = VQVAE2_BUFFERS[rest]
            yield f"{ours}.{name}", tensor.T if tensor.ndim == 2 else tensor
        elif rest.startswith("blocks."):
            yield f"{ours}.{vqvae2_layer(part, rest, blocks)}", tensor
        else:
            yield f"{ours}.{rest}", tensor


def vqvae2_layer(part: str, rest: str, blocks: int) -> str:
    """Our name of one layer of an encoder or decoder: "blocks.3.conv.1.weight" ->
    "blocks.0.conv1.weight". Activations have places there, too.
    """
    _, place, *tail = rest.split(".")
    # an encoder's first convolutions halve the sides: two of them, or one
    before = {"enc_b": 4, "enc_t": 2}.get(part, 0)
    number = int(place) - before
    if tail[0] == "conv":  # inside of a residual block
        inner = {"1": "conv1", "3": "conv2"}[tail[1]]
        return f"blocks.{number - 1}.{inner}.{tail[2]}"
    if number < 0:
        return f"down.{int(place) // 2}.{tail[0]}"
    if number == 0:
        return f"conv.{tail[0]}"
    # a decoder's last ones double them: after the blocks and an activation
    return f"up.{(number - blocks - 2) // 2}.{tail[0]}"


def unet_config(
    official: Mapping, in_channels: int | None = None, context_dim: int | None = None
) -> UNetConfig:
    """Our config from an official constructor's arguments. `attention_resolutions`
    there are downsampling factors.
    """
    factors = official.get("attention_resolutions", ())
    return UNetConfig(
        image_size=official["image_size"],
        in_channels=in_channels or official["in_channels"],
        out_channels=official["out_channels"],
        channels=official["model_channels"],
        channel_mult=tuple(official["channel_mult"]),
        num_res_blocks=official["num_res_blocks"],
        # a factor 2^level: 8 => level 3
        attention_levels=tuple(sorted(factor.bit_length() - 1 for factor in factors)),
        head_channels=official.get("num_head_channels", 64),
        dropout=official.get("dropout", 0.0),
        scale_shift_norm=official.get("use_scale_shift_norm", False),
        middle_attention=official.get("use_middle_attention", True),
        context_dim=context_dim,
        num_classes=official.get("num_classes"),
    )
