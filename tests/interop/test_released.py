"""Loading released networks: tiny files in the official formats, and files that
something is wrong with.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from dalle2_edu import load_glide
from dalle2_edu.baselines.dvae import DvaeConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop import keys, weights
from dalle2_edu.interop.released import (
    load_adm,
    load_adm_classifier,
    load_dvae,
    load_glide_network,
)
from dalle2_edu.text2image.glide import GlideConfig

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """The constructor's arguments, the official weights, and everything."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return (
        config,
        {
            key[8:]: value
            for key, value in tensors.items()
            if key.startswith("weights.")
        },
        tensors,
    )


def glide_config(name: str) -> GlideConfig:
    config, official, _ = golden(name)
    channels = official["input_blocks.0.0.weight"].shape[1]
    unet = keys.unet_config(
        config, in_channels=channels, context_dim=config["xf_width"]
    )
    return GlideConfig(
        unet,
        config["n_vocab"],
        config["text_ctx"],
        config["xf_width"],
        config["xf_layers"],
        config["xf_heads"],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three of GLIDE's networks under their released names, and a tokenizer of their 61
    words.
    """
    for kind, name in (
        ("base", "glide_base"),
        ("upsample", "glide_upsampler"),
        ("base_inpaint", "glide_inpaint"),
    ):
        torch.save(golden(name)[1], tmp_path / f"{kind}.pt")
    words = Tokenizer(
        models.WordLevel({"a": 0, "red": 1, "cube": 2, "?": 60}, unk_token="?")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


CONFIGS = {
    "base": "glide_base",
    "upsample": "glide_upsampler",
    "base-inpaint": "glide_inpaint",
}


@torch.no_grad()
def test_a_file_answers_as_the_golden_vector_does(folder):
    net = load_glide_network(folder, "base", config=glide_config("glide_base"))
    _, _, x = golden("glide_base")
    out = net(x["input.x"], x["input.t"], x["input.tokens"], x["input.mask"])
    assert (out - x["output.model_out"]).abs().max() < 1e-4
    half = load_glide_network(
        folder / "base.pt",
        "base",
        config=glide_config("glide_base"),
        dtype=torch.bfloat16,
    )
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_glide_draws_and_inpaints(folder):
    pipeline = load_glide(
        folder,
        kinds=tuple(CONFIGS),
        config={kind: glide_config(name) for kind, name in CONFIGS.items()},
        dtype=torch.float64,  # random weights make much of float32's last digit
    )
    how = {"steps": 3, "upsampler_steps": 3, "progress": False}
    pictures = pipeline.text_to_image(["a red cube", "a Cube"], **how)
    assert pictures.shape == (2, 3, 16, 16) and pictures.abs().max() <= 1
    alone = pipeline.text_to_image(["a Cube"], **how)
    assert (alone - pictures[1:]).abs().max() < 1e-5
    image, mask = (
        torch.rand(1, 3, 16, 16) * 2 - 1,
        torch.zeros(16, 16, dtype=torch.bool),
    )
    mask[4:9, 4:9] = True
    painted = pipeline.inpaint(image, mask, "a cube", steps=3, progress=False).float()
    assert torch.equal(painted[0][:, ~mask], image[0][:, ~mask])
    assert not torch.equal(painted[0][:, mask], image[0][:, mask])
    with pytest.raises(
        Dalle2EduError, match=r"upsample-inpaint network \(upsample_inpaint\.pt\)"
    ):
        pipeline.network("upsample-inpaint")


def test_glide_draws_in_half_precision(folder):
    configs = {kind: glide_config(CONFIGS[kind]) for kind in ("base", "upsample")}
    pipeline = load_glide(folder, config=configs, dtype=torch.bfloat16)
    pictures = pipeline.text_to_image(
        ["a cube"], steps=2, upsampler_steps=2, progress=False
    )
    assert pictures.dtype == torch.bfloat16 and bool(pictures.isfinite().all())


def test_adm_and_dvae_files(tmp_path):
    for name, order in (("adm_new_order", "64"), ("adm_legacy_order", "256")):
        config, official, _ = golden(name)
        torch.save(official, tmp_path / f"{order}x{order}_diffusion.pt")
        load_adm(tmp_path, order, config=keys.unet_config(config))
    config, official, _ = golden("adm_classifier")
    torch.save(official, tmp_path / "64x64_classifier.pt")
    load_adm_classifier(tmp_path, config=keys.unet_config(config))
    for part in ("encoder", "decoder"):
        save_file(golden(f"dvae_{part}")[1], tmp_path / f"{part}.safetensors")
    encoder, decoder = load_dvae(
        tmp_path, tmp_path, config=DvaeConfig(64, 16, start=12)
    )
    words = encoder.words(torch.rand(1, 3, 32, 32))
    assert words.shape == (1, 4, 4) and decoder.draw(words).shape == (1, 3, 32, 32)


# --- what can be wrong with a file ----------------------------------------------------


def test_a_missing_file_comes_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(
        Dalle2EduError, match=r"no base\.pt .*curl -LO https://.*/base\.pt"
    ):
        load_glide_network(tmp_path)


def test_no_network_is_one_clear_line(monkeypatch):
    def offline(*_):
        raise OSError("Connection refused")

    monkeypatch.setattr(weights, "hf_hub_download", offline)
    with pytest.raises(
        Dalle2EduError,
        match=r"someone/glide could not be fetched \(Connection refused\).*by hand: curl",
    ):
        load_glide_network("someone/glide")


def test_a_file_that_was_cut_off(folder):
    file = folder / "base.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(Dalle2EduError, match=r"base\.pt can't be read: it was cut off"):
        load_glide_network(file, config=glide_config("glide_base"))


def test_another_architecture(folder):
    with pytest.raises(
        Dalle2EduError,
        match=r"'unet.stem.weight' should be \[32, 6, 3, 3\] but is \[32, 3, 3, 3\]",
    ):
        load_glide_network(
            folder / "base.pt", "upsample", config=glide_config("glide_upsampler")
        )


def test_a_tensor_too_few_and_one_too_many(folder):
    official = golden("glide_base")[1]
    without = {key: value for key, value in official.items() if key != "out.2.bias"}
    torch.save(without, folder / "base.pt")
    with pytest.raises(
        Dalle2EduError,
        match=r"1 of its \d+ tensors are not there, the first 'unet.head.bias' \[6\]",
    ):
        load_glide_network(folder, config=glide_config("glide_base"))
    torch.save(
        {**official, "transformer.resblocks.7.ln_1.weight": torch.ones(32)},
        folder / "base.pt",
    )
    with pytest.raises(
        Dalle2EduError,
        match=r"no place for 'text\.transformer\.blocks\.7\.norm1\.weight' \[32\]",
    ):
        load_glide_network(folder, config=glide_config("glide_base"))


def test_too_little_memory_is_said_before_anything_is_allocated(folder, monkeypatch):
    monkeypatch.setattr(weights, "free_memory", lambda _: 1000)
    with pytest.raises(
        Dalle2EduError, match=r"base\.pt needs 0\.0 GiB on cpu and 0\.0 GiB are free"
    ):
        load_glide_network(folder, config=glide_config("glide_base"))
