"""Our classes against what the released systems compute: one test a golden file.

A golden file holds a tiny network of a released system with random weights, an input,
and that system's own answer. The files are found, not listed: set DALLE2_EDU_GOLDEN to
run the same tests over another folder. A file's metadata says which system and
constructor made it; a system that has no entry in CHECKS fails its test by name.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from golden_process import check_guided, check_process
from safetensors import safe_open
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import DvaeConfig, DvaeDecoder, DvaeEncoder
from dalle2_edu.baselines.vqvae import VqVae2, VqVaeConfig
from dalle2_edu.diffusion.classifier import NoisyClassifier
from dalle2_edu.diffusion.unet import UNet
from dalle2_edu.interop import keys
from dalle2_edu.interop.weights import pour
from dalle2_edu.text2image.glide import Glide, GlideConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig
from dalle2_edu.unclip.prior import DiffusionPrior, PriorConfig
from dalle2_edu.unclip.upsampler import Upsampler, UpsamplerConfig

FOLDER = Path(os.environ.get("DALLE2_EDU_GOLDEN", Path(__file__).parent / "golden"))
FILES = sorted(FOLDER.glob("*.safetensors"))
TOLERANCE = 1e-4

Tensors = dict[str, Tensor]


def read(path: Path) -> tuple[str, dict, Tensors]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return metadata["system"], json.loads(metadata["config"]), tensors


def pick(tensors: Tensors, prefix: str) -> Tensors:
    chosen = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in chosen.items()
    }


@torch.no_grad()
def assert_answers(
    module: nn.Module, inputs: tuple[Tensor, ...], expected: Tensor
) -> None:
    assert (module(*inputs) - expected).abs().max() <= TOLERANCE


def filled(
    build: Callable[[], nn.Module],
    tensors: Iterator[tuple[str, Tensor]],
    extra: Tensors | None = None,
):
    return pour(build, tensors, "the golden file", extra=extra)


def check_adm(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config)
    official = keys.unet_tensors(
        pick(tensors, "weights."),
        unet,
        legacy_order=not config["use_new_attention_order"],
    )
    x = pick(tensors, "input.")
    net = filled(lambda: UNet(unet), official)
    assert_answers(
        lambda *args: net(*args[:2], y=args[2]),
        (x["x"], x["t"], x["y"]),
        tensors["output.model_out"],
    )


def check_classifier(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config)
    net = filled(
        lambda: NoisyClassifier(unet),
        keys.classifier_tensors(pick(tensors, "weights."), unet),
    )
    x = pick(tensors, "input.")
    assert_answers(net, (x["x"], x["t"]), tensors["output.model_out"])


def check_glide(config: dict, tensors: Tensors) -> None:
    x = pick(tensors, "input.")
    seen = {"low_res": x.get("low_res")}
    if "inpaint_mask" in x:  # theirs is 1 where a pixel is known
        seen |= {"known": x["inpaint_image"], "hole": x["inpaint_mask"] == 0}
    stem = tensors["weights.input_blocks.0.0.weight"]
    unet = keys.unet_config(
        config, in_channels=stem.shape[1], context_dim=config["xf_width"]
    )
    sizes = (
        config["n_vocab"],
        config["text_ctx"],
        config["xf_width"],
        config["xf_layers"],
        config["xf_heads"],
    )
    official = keys.glide_tensors(pick(tensors, "weights."), unet, config["xf_heads"])
    net = filled(lambda: Glide(GlideConfig(unet, *sizes)), official)
    inputs = (x["x"], x["t"], x["tokens"], x["mask"])
    assert_answers(
        lambda *args: net(*args, **seen), inputs, tensors["output.model_out"]
    )
    with torch.no_grad():
        pooled, tokens = net.text(x["tokens"], x["mask"])
    assert (pooled - tensors["output.text_pooled"]).abs().max() <= TOLERANCE
    assert (
        tokens.transpose(1, 2) - tensors["output.text_tokens"]
    ).abs().max() <= TOLERANCE


def check_karlo_prior(config: dict, tensors: Tensors) -> None:
    width, heads = config["xf_width"], config["xf_heads"]
    ours = PriorConfig(
        config["clip_dim"],
        config["clip_dim"],
        config["text_ctx"],
        width,
        config["xf_layers"],
        heads,
    )
    stats = {
        "mean": torch.zeros(config["clip_dim"]),
        "std": torch.ones(config["clip_dim"]),
    }
    official = keys.karlo_prior_tensors(pick(tensors, "weights."), heads)
    net = filled(lambda: DiffusionPrior(ours), official, stats)
    x = pick(tensors, "input.")
    inputs = (x["z_t"], x["t"], x["text_emb"], x["text_enc"], x["mask"])
    assert_answers(net, inputs, tensors["output.model_out"])


def check_karlo_decoder(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config, context_dim=config["xf_width"])
    ours = DecoderConfig(config["clip_dim"], config["clip_dim"], unet=unet)
    net = filled(
        lambda: Decoder(ours),
        keys.karlo_decoder_tensors(pick(tensors, "weights."), unet),
    )
    x = pick(tensors, "input.")
    inputs = (x["x"], x["t"], x["image_emb"], x["text_emb"], x["text_enc"], x["mask"])
    assert_answers(net, inputs, tensors["output.model_out"])


def check_karlo_upsampler(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config, in_channels=2 * config["in_channels"])
    official = keys.upsampler_tensors(pick(tensors, "weights."), unet)
    net = filled(lambda: Upsampler(UpsamplerConfig(unet=unet)), official)
    x = pick(tensors, "input.")
    assert_answers(net, (x["x"], x["t"], x["low_res"]), tensors["output.model_out"])


def check_dvae_encoder(config: dict, tensors: Tensors) -> None:
    ours = DvaeConfig(
        config["vocab_size"], config["n_hid"], blocks=config["n_blk_per_group"]
    )
    net = filled(
        lambda: DvaeEncoder(ours), keys.dvae_tensors(pick(tensors, "weights."))
    )
    assert_answers(net, (tensors["input.x"],), tensors["output.logits"])


def check_dvae_decoder(config: dict, tensors: Tensors) -> None:
    ours = DvaeConfig(
        config["vocab_size"],
        config["n_hid"],
        config["n_init"],
        config["n_blk_per_group"],
    )
    net = filled(
        lambda: DvaeDecoder(ours), keys.dvae_tensors(pick(tensors, "weights."))
    )
    assert_answers(net, (tensors["input.one_hot"],), tensors["output.stats"])


def check_vqvae2(config: dict, tensors: Tensors) -> None:
    ours = VqVaeConfig(
        codes=config["n_embed"],
        dim=config["embed_dim"],
        width=config["channel"],
        narrow=config["n_res_channel"],
        blocks=config["n_res_block"],
        decay=config["decay"],
    )
    official = keys.vqvae2_tensors(pick(tensors, "weights."), ours.blocks)
    net = filled(lambda: VqVae2(ours), official)
    expected = pick(tensors, "output.")
    with torch.no_grad():
        out = net.eval()(tensors["input.x"])
    assert torch.equal(out.top, expected["codes_top"])
    assert torch.equal(out.bottom, expected["codes_bottom"])
    assert (out.reconstruction - expected["reconstruction"]).abs().max() <= TOLERANCE
    assert (out.commitment - expected["commitment"]).abs().max() <= TOLERANCE
    net.train()(tensors["input.x"])  # one step of the moving averages
    for level in ("top", "bottom"):
        book = getattr(net, level)
        for name, found in (
            ("embed", book.codebook.T),
            ("cluster_size", book.counts),
            ("embed_avg", book.sums.T),
        ):
            wanted = expected[f"ema_{level}_{name}"]
            assert (found - wanted).abs().max() <= TOLERANCE, (level, name)


CHECKS: dict[str, Callable[[dict, Tensors], None]] = {
    "openai/guided-diffusion UNetModel": check_adm,
    "openai/guided-diffusion EncoderUNetModel": check_classifier,
    "openai/guided-diffusion SpacedDiffusion": check_process,
    "openai/guided-diffusion condition": check_guided,
    "openai/glide-text2im Text2ImUNet": check_glide,
    "openai/glide-text2im InpaintText2ImUNet": check_glide,
    "openai/glide-text2im SuperResText2ImUNet": check_glide,
    "openai/DALL-E Encoder": check_dvae_encoder,
    "openai/DALL-E Decoder": check_dvae_decoder,
    "rosinality/vq-vae-2-pytorch VQVAE": check_vqvae2,
    "kakaobrain/karlo PriorTransformer": check_karlo_prior,
    "kakaobrain/karlo PLMImUNet": check_karlo_decoder,
    "kakaobrain/karlo SuperResUNetModel": check_karlo_upsampler,
}


def test_golden_files_found() -> None:
    assert FILES, f"no .safetensors file in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    system, config, tensors = read(path)
    repository, _, class_name = system.replace("@", " ").partition(" ")
    # the commit between them does not choose the check
    name = f"{repository} {class_name.split()[-1]}"
    if name not in CHECKS:
        pytest.fail(f"{path.name}: {name} is not supported yet", pytrace=False)
    CHECKS[name](config, tensors)
