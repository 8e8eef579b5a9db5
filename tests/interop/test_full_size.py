"""The released networks at their full size, on the meta device: every official key is
used once and every shape fits.

`tests/state_dicts/*.json` list what each released checkpoint holds: its parameter
count, every tensor's key and shape.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dalle2_edu.baselines.dvae import DvaeConfig, DvaeDecoder, DvaeEncoder
from dalle2_edu.diffusion.classifier import NoisyClassifier
from dalle2_edu.diffusion.unet import UNet
from dalle2_edu.interop import keys, presets
from dalle2_edu.interop.weights import parameter_count
from dalle2_edu.text2image.glide import Glide
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.prior import DiffusionPrior
from dalle2_edu.unclip.upsampler import Upsampler

FOLDER = Path(__file__).parent.parent / "state_dicts"
Official = dict[str, Tensor]


def glide(kind: str) -> tuple[nn.Module, Callable[[Official], Iterator]]:
    config = presets.GLIDE[kind]
    return Glide(config), lambda official: keys.glide_tensors(
        official, config.unet, config.heads
    )


def networks() -> dict[
    str, Callable[[], tuple[nn.Module, Callable[[Official], Iterator]]]
]:
    prior, decoder, upsampler = (
        presets.KARLO_PRIOR,
        presets.KARLO_DECODER,
        presets.KARLO_UPSAMPLER,
    )
    classifier = presets.ADM_64_CLASSIFIER
    return {
        "adm-64": lambda: (
            UNet(presets.ADM_64),
            lambda o: keys.unet_tensors(o, presets.ADM_64, legacy_order=False),
        ),
        "adm-256": lambda: (
            UNet(presets.ADM_256),
            lambda o: keys.unet_tensors(o, presets.ADM_256),
        ),
        "adm-64-classifier": lambda: (
            NoisyClassifier(classifier),
            lambda o: keys.classifier_tensors(o, classifier),
        ),
        "glide-base": lambda: glide("base"),
        "glide-upsample": lambda: glide("upsample"),
        "glide-base-inpaint": lambda: glide("base-inpaint"),
        "glide-upsample-inpaint": lambda: glide("upsample-inpaint"),
        "karlo-prior": lambda: (
            DiffusionPrior(prior),
            lambda o: keys.karlo_prior_tensors(o, prior.heads),
        ),
        "karlo-decoder": lambda: (
            Decoder(decoder),
            lambda o: keys.karlo_decoder_tensors(o, decoder.unet),
        ),
        "karlo-upsampler": lambda: (
            Upsampler(upsampler),
            lambda o: keys.upsampler_tensors(o, upsampler.unet),
        ),
        "dvae-encoder": lambda: (DvaeEncoder(DvaeConfig()), keys.dvae_tensors),
        "dvae-decoder": lambda: (DvaeDecoder(DvaeConfig()), keys.dvae_tensors),
    }


def test_every_list_has_its_network() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(networks())


@pytest.mark.parametrize("name", sorted(networks()))
def test_every_official_tensor_has_its_place(name: str) -> None:
    released = json.loads((FOLDER / f"{name}.json").read_text())
    with torch.device("meta"):
        module, mapped = networks()[name]()
        official = {
            key: torch.empty(shape) for key, shape in released["tensors"].items()
        }
    ours = {
        key: tensor.shape
        for key, tensor in module.state_dict().items()
        if key not in ("mean", "std")
    }
    given = [(key, tensor.shape) for key, tensor in mapped(official)]
    assert len(given) == len(official) == len(ours)
    assert dict(given) == ours
    assert parameter_count(module) == released["parameters"]


def test_the_papers_sizes() -> None:
    """Near the paper's, but for the autoregressive prior and the decoder, whose notes
    say what is left out.
    """
    papers = {
        "1B": 1e9,
        "3.5B": 3.5e9,
        "700M": 7e8,
        "300M": 3e8,
        "1.5B": 1.5e9,
        "2B": 2e9,
    }
    for size in presets.PAPER:
        if size.name in ("unCLIP, autoregressive prior", "unCLIP, decoder"):
            continue
        with torch.device("meta"):
            count = parameter_count(size.build())
        assert abs(count / papers[size.parameters] - 1) < 0.25, size.name
