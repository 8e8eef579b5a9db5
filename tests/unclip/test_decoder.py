"""The decoder: the two ways in for the image embedding, dropped conditions, guidance in
one pass.
"""

from __future__ import annotations

import torch
from tiny_models import DECODER, DIM, awake, conditioning
from torch import Tensor

from dalle2_edu.diffusion.guidance import classifier_free
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.unclip.decoder import Decoder, DecoderConfig

X_T = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 900])


def given(n: int = 2, real: int = 5) -> dict[str, Tensor]:
    return {"image_emb": torch.randn(n, DIM), **conditioning(n, real)}


def test_karlos_decoder_has_the_released_networks_parameters() -> None:
    unet = UNetConfig(
        image_size=64,
        out_channels=6,
        channels=320,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_levels=(1, 2, 3),
        head_channels=64,
        context_dim=1536,
    )
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig(clip_dim=768, text_width=768, unet=unet))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 893_318_086


@torch.no_grad()
def test_masked_text_does_not_matter() -> None:
    decoder, known = awake(Decoder(DECODER)), given(real=5)
    other = {**known, "text_enc": known["text_enc"].clone()}
    other["text_enc"][:, 5:] = 1e3
    torch.testing.assert_close(
        decoder(X_T, T, **other), decoder(X_T, T, **known), rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_a_dropped_image_is_the_learned_null_embedding() -> None:
    decoder, known = awake(Decoder(DECODER)), given()
    dropped = decoder(X_T, T, **known, image_keep=torch.tensor([True, False]))
    full, null = (
        decoder(X_T, T, **known),
        decoder(X_T, T, **{**known, "image_emb": decoder.null_image_emb.expand(2, -1)}),
    )
    torch.testing.assert_close(
        dropped, torch.stack([full[0], null[1]]), rtol=0, atol=1e-5
    )
    assert (full[1] - null[1]).abs().max() > 1e-3


def test_every_way_in_is_used() -> None:
    decoder = awake(Decoder(DECODER))
    decoder(
        X_T, T, **given(), image_keep=torch.tensor([True, False])
    ).square().mean().backward()
    assert [
        name
        for name, parameter in decoder.named_parameters()
        if not parameter.grad.any()
    ] == []


@torch.no_grad()
def test_guidance_is_one_call_of_twice_the_batch() -> None:
    decoder, known, null, batches = awake(Decoder(DECODER)), given(), given(), []

    def counted(x_t: Tensor, t: Tensor, **rest: Tensor) -> Tensor:
        batches.append(len(x_t))
        return decoder(x_t, t, **rest)

    guided = classifier_free(counted, 3.0, null, known)(X_T, T)
    assert batches == [4]
    apart = decoder(X_T, T, **null)
    torch.testing.assert_close(
        guided, apart + 3 * (decoder(X_T, T, **known) - apart), rtol=0, atol=1e-4
    )
    classifier_free(counted, 1.0, null, known)(X_T, T)
    assert batches == [4, 2]
