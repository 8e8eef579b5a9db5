"""Our classes against what the released systems compute: one test a golden file.

A golden file holds a tiny network of a released system with random weights, an input, and that system's own answer. The
files are found, not listed: set DALLE2_EDU_GOLDEN to run the same tests over another folder. A file's metadata
says which system and constructor made it; a system that has no entry in CHECKS fails its test by name.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_process import check_process
from safetensors import safe_open
from torch import Tensor, nn

from dalle2_edu.diffusion.classifier import NoisyClassifier
from dalle2_edu.diffusion.unet import UNet
from dalle2_edu.interop import openai_keys as keys
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
    chosen = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in chosen.items()}


@torch.no_grad()
def assert_answers(module: nn.Module, inputs: tuple[Tensor, ...], expected: Tensor) -> None:
    assert (module(*inputs) - expected).abs().max() <= TOLERANCE


def check_adm(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config)
    state = keys.unet_state(pick(tensors, "weights."), unet, legacy_order=not config["use_new_attention_order"])
    x = pick(tensors, "input.")
    net = keys.load_strictly(UNet(unet), state)
    assert_answers(lambda *args: net(*args[:2], y=args[2]), (x["x"], x["t"], x["y"]), tensors["output.model_out"])


def check_classifier(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config)
    net = keys.load_strictly(NoisyClassifier(unet), keys.classifier_state(pick(tensors, "weights."), unet))
    x = pick(tensors, "input.")
    assert_answers(net, (x["x"], x["t"]), tensors["output.model_out"])


def check_glide(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config, context_dim=config["xf_width"])
    sizes = (config["n_vocab"], config["text_ctx"], config["xf_width"], config["xf_layers"], config["xf_heads"])
    net = Glide(GlideConfig(unet, *sizes))
    keys.load_strictly(net, keys.glide_state(pick(tensors, "weights."), unet, config["xf_heads"]))
    x = pick(tensors, "input.")
    assert_answers(net, (x["x"], x["t"], x["tokens"], x["mask"]), tensors["output.model_out"])
    with torch.no_grad():
        pooled, tokens = net.text(x["tokens"], x["mask"])
    assert (pooled - tensors["output.text_pooled"]).abs().max() <= TOLERANCE
    assert (tokens.transpose(1, 2) - tensors["output.text_tokens"]).abs().max() <= TOLERANCE


def check_karlo_prior(config: dict, tensors: Tensors) -> None:
    width, heads = config["xf_width"], config["xf_heads"]
    ours = PriorConfig(config["clip_dim"], config["clip_dim"], config["text_ctx"], width, config["xf_layers"], heads)
    net = DiffusionPrior(ours)
    keys.load_strictly(net, keys.karlo_prior_state(pick(tensors, "weights."), heads), skip=("mean", "std"))
    x = pick(tensors, "input.")
    inputs = (x["z_t"], x["t"], x["text_emb"], x["text_enc"], x["mask"])
    assert_answers(net, inputs, tensors["output.model_out"])


def check_karlo_decoder(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config, context_dim=config["xf_width"])
    net = Decoder(DecoderConfig(config["clip_dim"], config["clip_dim"], unet=unet))
    keys.load_strictly(net, keys.karlo_decoder_state(pick(tensors, "weights."), unet))
    x = pick(tensors, "input.")
    inputs = (x["x"], x["t"], x["image_emb"], x["text_emb"], x["text_enc"], x["mask"])
    assert_answers(net, inputs, tensors["output.model_out"])


def check_karlo_upsampler(config: dict, tensors: Tensors) -> None:
    unet = keys.unet_config(config, in_channels=2 * config["in_channels"])
    net = Upsampler(UpsamplerConfig(unet=unet))
    state = keys.unet_state(pick(tensors, "weights."), unet)
    keys.load_strictly(net, {f"unet.{key}": tensor for key, tensor in state.items()})
    x = pick(tensors, "input.")
    assert_answers(net, (x["x"], x["t"], x["low_res"]), tensors["output.model_out"])


CHECKS: dict[str, Callable[[dict, Tensors], None]] = {
    "openai/guided-diffusion UNetModel": check_adm,
    "openai/guided-diffusion EncoderUNetModel": check_classifier,
    "openai/guided-diffusion SpacedDiffusion": check_process,
    "openai/glide-text2im Text2ImUNet": check_glide,
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
    name = f"{repository} {class_name.split()[-1]}"  # the commit between them does not choose the check
    if name not in CHECKS:
        pytest.fail(f"{path.name}: {name} is not supported yet", pytrace=False)
    CHECKS[name](config, tensors)
