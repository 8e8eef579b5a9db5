"""One function for each released network: where its file is, in; our module with its
weights, out.

    from dalle2_edu.interop.released import load_glide_network
    base = load_glide_network("base.pt")                                     # GLIDE (filtered), 385 million numbers
    upsampler = load_glide_network("upsample.pt", "upsample", dtype=torch.bfloat16, device="cuda")

`source` is a file, a folder that holds it under its released name, or a Hugging Face
repository ("owner/name") that does. Weights go straight to the wanted type and device
(`weights.pour`). Karlo's networks, which need their CLIP and their statistics beside
them, are in `karlo`.

Chapter 24 uses this file.
"""

from __future__ import annotations

from typing import Any

from dalle2_edu.baselines.dvae import DvaeConfig, DvaeDecoder, DvaeEncoder
from dalle2_edu.diffusion.classifier import NoisyClassifier
from dalle2_edu.diffusion.unet import UNet, UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop import keys, presets
from dalle2_edu.interop.weights import Source, find_file, open_network, pour
from dalle2_edu.text2image.glide import Glide, GlideConfig

OPENAI = "https://openaipublic.blob.core.windows.net/diffusion"
DVAE = "https://cdn.openai.com/dall-e"
GLIDE_FILES = {
    "base": "base.pt",
    "upsample": "upsample.pt",
    "base-inpaint": "base_inpaint.pt",
    "upsample-inpaint": "upsample_inpaint.pt",
}
ADM_FILES = {
    "64": ("64x64_diffusion.pt", presets.ADM_64),
    "256": ("256x256_diffusion.pt", presets.ADM_256),
    "64-classifier": ("64x64_classifier.pt", presets.ADM_64_CLASSIFIER),
}
# the one released network whose attention keeps all queries together (see `keys`)
NEW_ORDER = ("64",)


def load_glide_network(
    source: Source = ".",
    kind: str = "base",
    config: GlideConfig | None = None,
    **how: Any,
) -> Glide:
    """GLIDE (filtered): kind is "base", "upsample", "base-inpaint" or
    "upsample-inpaint".

    config is the released one unless you give another. how: `dtype`, `device` and
    `progress` of `weights.pour`.
    """
    name = _known(kind, GLIDE_FILES, "GLIDE network")
    config = config or presets.GLIDE[kind]
    path = find_file(
        source,
        [name, name.replace(".pt", ".safetensors")],
        f"curl -LO {OPENAI}/dec-2021/{name}",
    )
    official = open_network(path)
    tensors = keys.glide_tensors(official, config.unet, config.heads)
    return pour(lambda: Glide(config), tensors, path, len(official), **how)


def load_adm(
    source: Source = ".", kind: str = "64", config: UNetConfig | None = None, **how: Any
) -> UNet:
    """ADM's class-conditional ImageNet network: kind is "64" or "256"."""
    networks = {k: v for k, v in ADM_FILES.items() if k.isdigit()}  # no classifier
    name, released = _known(kind, networks, "ADM network")
    config = config or released
    path = find_file(
        source,
        [name, name.replace(".pt", ".safetensors")],
        f"curl -LO {OPENAI}/jul-2021/{name}",
    )
    official = open_network(path)
    tensors = keys.unet_tensors(official, config, legacy_order=kind not in NEW_ORDER)
    return pour(lambda: UNet(config), tensors, path, len(official), **how)


def load_adm_classifier(
    source: Source = ".", config: UNetConfig | None = None, **how: Any
) -> NoisyClassifier:
    """ADM's noised classifier at 64 x 64."""
    name, released = ADM_FILES["64-classifier"]
    config = config or released
    path = find_file(
        source,
        [name, name.replace(".pt", ".safetensors")],
        f"curl -LO {OPENAI}/jul-2021/{name}",
    )
    official = open_network(path)
    tensors = keys.classifier_tensors(official, config)
    return pour(lambda: NoisyClassifier(config), tensors, path, len(official), **how)


def load_dvae(
    encoder: Source = ".",
    decoder: Source = ".",
    config: DvaeConfig | None = None,
    **how: Any,
) -> tuple[DvaeEncoder, DvaeDecoder]:
    """DALL·E 1's dVAE. The released files are pickled modules; they are read without
    being run, or written as safetensors by `dalle2-edu convert`.
    """
    config = config or DvaeConfig()
    return (
        _dvae(encoder, "encoder", DvaeEncoder, config, how),
        _dvae(decoder, "decoder", DvaeDecoder, config, how),
    )


def _dvae(
    source: Source, part: str, module: type, config: DvaeConfig, how: dict[str, Any]
) -> Any:
    by_hand = f"curl -LO {DVAE}/{part}.pkl"
    path = find_file(source, [f"{part}.safetensors", f"{part}.pkl"], by_hand)
    official = open_network(path)
    return pour(
        lambda: module(config), keys.dvae_tensors(official), path, len(official), **how
    )


def _known(kind: str, table: dict[str, Any], what: str) -> Any:
    if kind not in table:
        raise Dalle2EduError(f"There is no {what} {kind!r}; known: {', '.join(table)}.")
    return table[kind]
