"""The decoder: the two ways in for the image embedding, dropped conditions, guidance in
one pass.
"""

from __future__ import annotations

from dataclasses import replace

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


# --- a text transformer of its own, and whitened embeddings ---------------------------

OWN = replace(
    DECODER, text_layers=2, text_heads=2, vocab_size=50, context_length=32, whiten=True
)


def given_ids(real: int = 5) -> dict[str, Tensor]:
    """Token ids of two texts, padded with zeros, beside the rest."""
    known = given(real=real)
    ids = torch.randint(1, 50, (2, 32), generator=torch.Generator().manual_seed(1))
    return {**known, "text_tokens": ids * known["text_mask"]}


def own_decoder() -> Decoder:
    """One that knows embeddings whose second direction is a thousand times fainter."""
    decoder = awake(Decoder(OWN))
    sizes = torch.ones(DIM)
    sizes[1] = 1e-3
    decoder.set_stats(
        torch.randn(500, DIM, generator=torch.Generator().manual_seed(2)) * sizes
    )
    return decoder


@torch.no_grad()
def test_the_text_transformer_reads_ids_and_no_padding() -> None:
    decoder, known = own_decoder(), given_ids()
    answer = decoder(X_T, T, **known)
    short = {
        **known,
        **{name: known[name][:, :5] for name in ("text_mask", "text_tokens")},
    }
    torch.testing.assert_close(decoder(X_T, T, **short), answer, rtol=0, atol=1e-5)
    ignored = {
        **known,
        "text_emb": known["text_emb"] * 2,
        "text_enc": known["text_enc"] * 2,
    }
    assert torch.equal(decoder(X_T, T, **ignored), answer)
    other = {**known, "text_tokens": known["text_tokens"].flip(0)}
    assert (decoder(X_T, T, **other) - answer).abs().max() > 1e-3


@torch.no_grad()
def test_whitened_embeddings_differ_alike_in_every_direction() -> None:
    decoder = own_decoder()
    faint = torch.eye(DIM)[1] * 1e-3
    moved = decoder.whitened(faint[None]) - decoder.whitened(torch.zeros(1, DIM))
    assert 0.8 < float(moved.norm()) < 1.25  # one standard deviation, faint as it was
    assert not decoder.whitened(decoder.null_image_emb[None]).any()


@torch.no_grad()
def test_the_null_of_a_whitening_decoder_is_the_mean_embedding() -> None:
    decoder, known = own_decoder(), given_ids()
    dropped = decoder(X_T, T, **known, image_keep=torch.tensor([False, False]))
    null = {**known, "image_emb": decoder.null_image_emb.expand(2, -1)}
    torch.testing.assert_close(dropped, decoder(X_T, T, **null), rtol=0, atol=1e-5)


def test_its_state_keeps_what_it_knows_of_the_embeddings() -> None:
    decoder, again = own_decoder(), Decoder(OWN)
    again.load_state_dict(decoder.state_dict())
    z = torch.randn(3, DIM)
    assert torch.equal(again.whitened(z), decoder.whitened(z))
