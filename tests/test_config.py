"""Configs go to JSON and come back equal."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from dalle2_edu.config import from_dict
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.oracle import OracleConfig
from dalle2_edu.text2image.clip import ClipConfig
from dalle2_edu.text2image.glide import GlideConfig
from dalle2_edu.unclip.decoder import DecoderConfig
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.upsampler import UpsamplerConfig


@pytest.mark.parametrize(
    "config",
    [
        ClipConfig(embed_dim=7),
        PriorConfig(layers=3),
        DecoderConfig(
            unet=UNetConfig(channel_mult=(1, 4), attention_levels=(), context_dim=64)
        ),
        UpsamplerConfig(schedule="linear"),
        GlideConfig(),
        OracleConfig(),
    ],
    ids=lambda config: type(config).__name__,
)
def test_json_and_back(config: Any) -> None:
    again = from_dict(type(config), json.loads(json.dumps(asdict(config))))
    assert again == config
    # lists would not hash: every tuple is a tuple again
    assert hash(again) == hash(config)


def test_fields_left_out_keep_their_defaults() -> None:
    assert from_dict(DecoderConfig, {"clip_dim": 9}) == DecoderConfig(clip_dim=9)


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    with pytest.raises(
        Dalle2EduError, match=r"UNetConfig has no field depth; known: .*channels"
    ):
        from_dict(DecoderConfig, {"unet": {"depth": 3}})
