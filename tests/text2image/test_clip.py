"""Our CLIP against open_clip's own calls, at a tiny size and through a checkpoint
file.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import tiny_models
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file

from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import Clip, contrastive_loss, load_open_clip

NAME = "tiny-test-clip"
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "image_size": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An architecture that open_clip knows by name for this test, and a file of weights
    for it.
    """
    for registry in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(
            open_clip.factory, registry, type(getattr(open_clip.factory, registry))()
        )
    (tmp_path / f"{NAME}.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(tmp_path / f"{NAME}.json")
    file = tmp_path / "weights.safetensors"
    save_file(open_clip.create_model(NAME).state_dict(), file)
    return file


@torch.no_grad()
def test_a_real_model_by_name_answers_as_open_clip_does(checkpoint: Path) -> None:
    clip, tokenizer = load_open_clip(NAME, str(checkpoint))
    theirs, _, preprocess = open_clip.create_model_and_transforms(
        NAME, pretrained=str(checkpoint)
    )
    theirs.eval()

    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = theirs.encode_image(
        preprocess(picture)[None], normalize=True
    )  # open_clip's own mean and std
    torch.testing.assert_close(
        clip.eval().encode_image(pixels[None] / 127.5 - 1), expected, rtol=0, atol=1e-5
    )

    tokens = tokenizer(["a rocket", "two cats on a mat"])
    expected = theirs.encode_text(
        open_clip.get_tokenizer(NAME)(["a rocket", "two cats on a mat"]), normalize=True
    )
    torch.testing.assert_close(
        clip.encode_text(tokens).text_emb, expected, rtol=0, atol=1e-5
    )


def test_what_cannot_be_loaded_is_said_in_one_line(checkpoint: Path) -> None:
    pickled, cut, other = (
        checkpoint.with_name(name)
        for name in ("a.pt", "cut.safetensors", "other.safetensors")
    )
    pickled.write_bytes(b"never opened")
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    save_file({"w": torch.zeros(1)}, other)
    for name, weights, said in [
        ("ViT-Z-9", None, "ViT-Z-9"),
        (NAME, "no-such-tag", "no-such-tag"),
        (NAME, str(pickled), "pickle"),
        (NAME, str(checkpoint.parent), "neither a file nor"),
        (NAME, str(cut), "cut.safetensors"),
        (NAME, str(other), "other.safetensors"),
    ]:
        with pytest.raises(Dalle2EduError, match=said) as caught:
            load_open_clip(name, weights)
        assert "\n" not in str(caught.value)


def test_a_tag_whose_weights_are_pickled_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        open_clip,
        "download_pretrained",
        lambda _: "fetched/open_clip_pytorch_model.bin",
    )
    with pytest.raises(Dalle2EduError, match="pickle"):
        load_open_clip("ViT-B-32", "laion2b_s34b_b79k")


def test_without_a_network_the_tag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: object) -> str:
        raise FileNotFoundError("no\nnetwork")

    monkeypatch.setattr(open_clip, "download_pretrained", unreachable)
    with pytest.raises(Dalle2EduError, match="laion2b_s34b_b79k.*no network"):
        load_open_clip("ViT-B-32", "laion2b_s34b_b79k")


@torch.no_grad()
def test_text_encoding_is_the_tokens_that_the_embedding_is_read_from() -> None:
    clip, tokens = (
        tiny_models.awake(Clip(tiny_models.CLIP)),
        default_tokenizer()(["rocket", "一只猫", ""]),
    )
    text = clip.encode_text(tokens)
    torch.testing.assert_close(
        text.text_emb, clip.model.encode_text(tokens, normalize=True), rtol=0, atol=1e-6
    )
    at_end = text.text_enc[torch.arange(3), tokens.argmax(dim=1)]  # (3, W)
    projected = torch.nn.functional.normalize(
        at_end @ clip.model.text_projection, dim=-1
    )
    torch.testing.assert_close(text.text_emb, projected, rtol=0, atol=1e-6)


def test_text_mask_is_true_from_start_to_end_token() -> None:
    tokens = default_tokenizer()(["rocket", "一只猫坐在红色的圆形上", ""])
    mask = Clip(tiny_models.CLIP).encode_text(tokens).text_mask
    assert torch.equal(mask, tokens != default_tokenizer().pad_id)
    assert mask.sum(dim=1).tolist()[-1] == 2  # the null text is its start and its end


def test_pictures_of_any_size_become_unit_vectors() -> None:
    clip = Clip(tiny_models.CLIP)
    assert torch.allclose(
        clip.encode_image(torch.rand(2, 3, 48, 48) * 2 - 1).norm(dim=-1), torch.ones(2)
    )


def test_contrastive_loss_is_open_clips() -> None:
    u, v = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(7.0)
    torch.testing.assert_close(contrastive_loss(u, v, scale), ClipLoss()(u, v, scale))


def test_the_scale_is_capped() -> None:
    clip = Clip(tiny_models.CLIP)
    with torch.no_grad():
        clip.model.logit_scale.fill_(9.0)  # exp(9) is 8103
    assert clip(torch.zeros(1, 3, 16, 16), default_tokenizer()(["x"]))[
        2
    ].item() == pytest.approx(100)
