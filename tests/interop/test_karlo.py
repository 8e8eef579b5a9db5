"""Karlo in both of its formats, tiny and random, against diffusers' own classes, stage
by stage with the same noise.
"""

import json
import math
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers import scheduling_unclip
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from dalle2_edu import load_karlo
from dalle2_edu.diffusion.samplers import ancestral_sample
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.interop import keys
from dalle2_edu.interop.karlo import Karlo
from dalle2_edu.interop.karlo_files import KARLO_FILES, KarloConfig
from dalle2_edu.unclip.decoder import DecoderConfig
from dalle2_edu.unclip.inpainting import inpaint
from dalle2_edu.unclip.latents import Latent
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.upsampler import UpsamplerConfig

DIM, WORDS, LENGTH = 16, 49408, 77
GOLDEN = Path(__file__).parent.parent / "golden"


def awaken(module: torch.nn.Module) -> torch.nn.Module:
    """Random numbers everywhere: some of diffusers' layers start at zero and would hide
    a mistake.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape)
                * 0.5
                / math.sqrt(max(1, parameter[0].numel()))
            )
    return module.eval()


def up_and_down(**more) -> dict:
    return {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        **more,
    }


@pytest.fixture(scope="module")
def parts() -> dict[str, torch.nn.Module]:
    """diffusers' parts of a Karlo, tiny and random."""
    torch.manual_seed(0)
    upsampler = up_and_down(
        sample_size=16,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        resnet_time_scale_shift="default",
        add_attention=False,
        freq_shift=0,
        flip_sin_to_cos=True,
    )
    decoder = up_and_down(
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=16,
        class_embed_type="identity",
        only_cross_attention=False,
    )
    text = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=DIM,
        intermediate_size=4 * DIM,
        projection_dim=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        eos_token_id=WORDS - 1,
    )
    vision = CLIPVisionConfig(
        hidden_size=DIM,
        intermediate_size=4 * DIM,
        projection_dim=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        hidden_act="quick_gelu",
    )
    modules = {
        "prior": PriorTransformer(
            2, 16, 2, embedding_dim=DIM, num_embeddings=LENGTH, additional_embeddings=4
        ),
        "decoder": UNet2DConditionModel(**decoder),
        "text_proj": UnCLIPTextProjModel(
            clip_embeddings_dim=DIM, time_embed_dim=128, cross_attention_dim=24
        ),
        "super_res_first": UNet2DModel(**upsampler),
        "super_res_last": UNet2DModel(**upsampler),
        "text_encoder": CLIPTextModelWithProjection(text),
        "image_encoder": CLIPVisionModelWithProjection(vision),
    }
    modules = {name: awaken(module) for name, module in modules.items()}
    modules["prior"].clip_std.data.abs_()
    return modules


@pytest.fixture(scope="module")
def folder(
    parts: dict[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("karlo")
    for name, module in parts.items():
        module.save_pretrained(path / name)
    scheduler("sample", "fixed_small_log", 5.0).save_pretrained(
        path / "prior_scheduler"
    )
    return path


@pytest.fixture(scope="module")
def karlo(folder: Path) -> Karlo:
    return load_karlo(folder, progress=False)


def scheduler(
    prediction: str, variance: str, clip: float
) -> scheduling_unclip.UnCLIPScheduler:
    return scheduling_unclip.UnCLIPScheduler(
        variance_type=variance,
        clip_sample=True,
        clip_sample_range=clip,
        prediction_type=prediction,
    )


def prompt(karlo: Karlo) -> dict[str, Tensor]:
    return karlo.encode_text(["a red cube", "a rocket over the sea"]).as_conditioning()


@torch.no_grad()
def test_texts_and_pictures_are_read_as_transformers_reads_them(karlo, parts):
    tokens = karlo.tokenizer(["a red cube", "a rocket over the sea"])
    theirs = parts["text_encoder"](tokens)
    ours = prompt(karlo)
    assert (ours["text_emb"] - theirs.text_embeds).abs().max() < 1e-5
    real = ours["text_mask"]
    assert (ours["text_enc"] - theirs.last_hidden_state)[real].abs().max() < 1e-5
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = (
        torch.tensor(each)[:, None, None]
        for each in (karlo.clip.image_mean, karlo.clip.image_std)
    )
    embeds = parts["image_encoder"]((pictures / 2 + 0.5 - mean) / std).image_embeds
    assert (karlo.clip.encode_image(pictures) - embeds).abs().max() < 1e-5


@torch.no_grad()
def test_networks(karlo, parts):
    text, t = prompt(karlo), torch.tensor([700, 12])
    z = torch.randn(2, DIM)
    theirs = parts["prior"](
        z,
        timestep=t,
        proj_embedding=text["text_emb"],
        encoder_hidden_states=text["text_enc"],
        attention_mask=text["text_mask"],
    ).predicted_image_embedding
    assert (karlo.prior(z, t, **text) - theirs).abs().max() < 1e-4
    x = torch.randn(2, 3, 8, 8)
    assert (
        karlo.decoder(x, t, image_emb=z, **text) - their_decoder(parts, x, t, z, text)
    ).abs().max() < 1e-4
    small, large = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 16)
    for ours, name in (
        (karlo.upsamplers[0], "super_res_first"),
        (karlo.last, "super_res_last"),
    ):
        theirs = parts[name](their_enlarged(large, small), t).sample
        assert (ours(large, t, small) - theirs).abs().max() < 1e-4


def their_decoder(
    parts, x: Tensor, t: Tensor, z: Tensor, text: dict[str, Tensor]
) -> Tensor:
    hidden, added = parts["text_proj"](
        image_embeddings=z,
        prompt_embeds=text["text_emb"],
        text_encoder_hidden_states=text["text_enc"],
        do_classifier_free_guidance=False,
    )
    mask = torch.nn.functional.pad(text["text_mask"], (4, 0), value=True)
    return parts["decoder"](
        x, t, encoder_hidden_states=hidden, class_labels=added, attention_mask=mask
    ).sample


def their_enlarged(large: Tensor, small: Tensor) -> Tensor:
    enlarged = torch.nn.functional.interpolate(
        small, large.shape[-2:], mode="bicubic", antialias=True
    )
    return torch.cat([large, enlarged], dim=1)


class Walk:
    """Our sampler's walk through a stage, and the noise it drew, so that diffusers can
    take each step from there.
    """

    def __init__(self, model, process, shape):
        generator = torch.Generator().manual_seed(3)
        self.noise, self.states, self.answers = [], [], []

        def watched(x_t: Tensor, t: Tensor) -> Tensor:
            self.states.append((x_t, int(t[0])))
            self.answers.append(model(x_t, t))
            return self.answers[-1]

        def noise(size) -> Tensor:
            self.noise.append(torch.randn(tuple(size), generator=generator))
            return self.noise[-1]

        start = torch.randn(shape, generator=generator)
        end = ancestral_sample(
            watched, process, start, noise, clip=5.0 if len(shape) == 2 else 1.0
        )
        self.ends = [x for x, _ in self.states[1:]] + [end]


@torch.no_grad()
@pytest.mark.parametrize(
    ("stage", "steps", "their", "tolerance"),
    [
        ("prior", 25, ("sample", "fixed_small_log", 5.0), 2e-3),
        ("decoder", 25, ("epsilon", "learned_range", 1.0), 1e-3),
        ("upsampler", 7, ("epsilon", "fixed_small_log", 1.0), 1e-3),
    ],
)
def test_each_step_is_theirs(karlo, monkeypatch, stage, steps, their, tolerance):
    """Their betas are float32: facts measured on the released schedule allow 1.1e-3
    (prior) and 5e-4 a step.
    """
    stages = {
        "prior": karlo.prior_stage,
        "decoder": karlo.decoder_stage,
        "upsampler": karlo.upsampler_stages[0],
    }
    assert stages[stage].steps == steps and stages[stage].clip == their[2]
    text = prompt(karlo)
    z, small = torch.randn(2, DIM), torch.rand(2, 3, 8, 8)
    models = {
        "prior": lambda x, t: karlo.prior(x, t, **text),
        "decoder": lambda x, t: karlo.decoder(x, t, image_emb=z, **text),
        "upsampler": lambda x, t: karlo.upsamplers[0](x, t, small),
    }
    shape = {"prior": (2, DIM), "decoder": (2, 3, 8, 8), "upsampler": (2, 3, 16, 16)}[
        stage
    ]
    walk = Walk(models[stage], stages[stage].process, shape)
    theirs = scheduler(*their)
    theirs.set_timesteps(steps)
    times = theirs.timesteps.tolist()
    assert times == [t for _, t in walk.states]
    drawn = iter(walk.noise)
    monkeypatch.setattr(scheduling_unclip, "randn_tensor", lambda *_, **__: next(drawn))
    for i, ((x, t), answer) in enumerate(zip(walk.states, walk.answers, strict=True)):
        before = times[i + 1] if i + 1 < steps else None
        stepped = theirs.step(answer, t, x, prev_timestep=before).prev_sample
        assert (stepped - walk.ends[i]).abs().max() < tolerance, f"step {i} of {stage}"


def test_text_to_image_and_variations(karlo):
    seen: list[str] = []
    how = {
        "prior_steps": 2,
        "decoder_steps": 3,
        "upsampler_steps": 2,
        "progress": False,
    }
    pictures = karlo.text_to_image(
        ["a cat", "a dog"], callback=lambda stage, *_: seen.append(stage), **how
    )
    assert pictures.shape == (2, 3, 16, 16) and pictures.abs().max() <= 1
    assert seen == ["prior"] * 2 + ["decoder"] * 3 + ["upsampler_16"] * 2
    assert torch.allclose(
        karlo.text_to_image(["a dog"], **how), pictures[1:], atol=1e-5
    )
    latent = Latent(karlo.embed(pictures[:1]).expand(3, -1), karlo.draw_noise(range(3)))
    few = {"decoder_steps": 2, "upsampler_steps": 2, "progress": False}
    others = karlo.decode(latent, eta=None, guidance_scale=8.0, **few)
    assert others.shape == (3, 3, 16, 16)
    with pytest.raises(Dalle2EduError, match="not detail"):
        inpaint(karlo, pictures[:1], torch.ones(16, 16), "a cat")


# --- Karlo's own checkpoints ----------------------------------------------------------


def golden(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    weights = {
        key.removeprefix("weights."): value.float()
        for key, value in tensors.items()
        if "weights." in key
    }
    return config, weights, tensors


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KarloConfig]:
    """A folder of Karlo's own checkpoints with the weights of the golden files, and
    their sizes.
    """
    path = tmp_path_factory.mktemp("own")
    prior, prior_weights, _ = golden("karlo_prior")
    decoder, decoder_weights, _ = golden("karlo_decoder")
    upsampler, upsampler_weights, _ = golden("karlo_upsampler")
    dim, length = prior["clip_dim"], prior["text_ctx"]
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in prior_weights.items()}},
        path / KARLO_FILES["prior"],
    )
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in decoder_weights.items()}},
        path / KARLO_FILES["decoder"],
    )
    twice = {
        f"model_{w}.{k}": v
        for w in ("first_steps", "last_step")
        for k, v in upsampler_weights.items()
    }
    torch.save({"state_dict": twice}, path / KARLO_FILES["upsampler"])
    torch.save((torch.zeros(dim), torch.ones(dim)), path / KARLO_FILES["stats"])
    vision = open_clip.CLIPVisionCfg(1, 64, 64, patch_size=8, image_size=16)
    text = open_clip.CLIPTextCfg(
        context_length=length, vocab_size=WORDS, width=dim, heads=1, layers=1
    )
    torch.save(
        open_clip.CLIP(dim, vision, text, quick_gelu=True).state_dict(),
        path / KARLO_FILES["clip"],
    )
    sizes = KarloConfig(
        PriorConfig(
            dim, dim, length, prior["xf_width"], prior["xf_layers"], prior["xf_heads"]
        ),
        DecoderConfig(
            dim, dim, unet=keys.unet_config(decoder, context_dim=decoder["xf_width"])
        ),
        UpsamplerConfig(
            "cosine",
            keys.unet_config(upsampler, in_channels=2 * upsampler["in_channels"]),
        ),
    )
    return path, sizes


@torch.no_grad()
def test_own_checkpoints_answer_as_the_golden_files_do(own):
    karlo = load_karlo(own[0], config=own[1], progress=False)
    _, _, x = golden("karlo_prior")
    inputs = [
        x[f"input.{name}"] for name in ("z_t", "t", "text_emb", "text_enc", "mask")
    ]
    assert (karlo.prior(*inputs) - x["output.model_out"]).abs().max() < 1e-4
    _, _, x = golden("karlo_upsampler")
    inputs = [x[f"input.{name}"] for name in ("x", "t", "low_res")]
    for network in (karlo.upsamplers[0], karlo.last):
        assert (network(*inputs) - x["output.model_out"]).abs().max() < 1e-4
    assert karlo.prior_stage.clip == 10
    pictures = karlo.text_to_image(
        ["a cat"], prior_steps=2, decoder_steps=2, upsampler_steps=2, progress=False
    )
    assert pictures.shape[:2] == (1, 3) and bool(pictures.isfinite().all())


# --- bad files ------------------------------------------------------------------------


def test_a_folder_that_is_not_there():
    with pytest.raises(Dalle2EduError, match="no folder .*To get Karlo by hand"):
        load_karlo("/nowhere/karlo")


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "karlo"))


def test_a_missing_part_is_named(folder, tmp_path):
    broken = copied(folder, tmp_path)
    (broken / "decoder" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(
        Dalle2EduError, match=r"no diffusion_pytorch_model\.safetensors .* in .*decoder"
    ):
        load_karlo(broken, progress=False)


def test_a_file_that_was_cut_off_is_named(folder, tmp_path):
    file = copied(folder, tmp_path) / "prior" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(Dalle2EduError, match="prior.*cut off"):
        load_karlo(file.parent.parent, progress=False)


def test_another_network_is_named_with_key_and_shapes(folder, tmp_path):
    file = (
        copied(folder, tmp_path)
        / "super_res_last"
        / "diffusion_pytorch_model.safetensors"
    )
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(48, 6, 3, 3)
    save_file(tensors, file)
    with pytest.raises(
        Dalle2EduError,
        match=r"'unet.stem.weight' should be \[32, 6, 3, 3\] but is \[48, 6, 3, 3\]",
    ):
        load_karlo(file.parent.parent, progress=False)
