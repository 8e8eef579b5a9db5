"""The regression in place of a prior, and the rivals of the diffusion prior inside
unCLIP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.regression import RegressionPrior

FEW: dict[str, Any] = {
    "prior_steps": 3,
    "decoder_steps": 2,
    "upsampler_steps": 2,
    "progress": False,
}


def regression() -> RegressionPrior:
    model = tiny_models.awake(RegressionPrior(tiny_models.PRIOR))
    model.prior.set_stats(torch.randn(9, tiny_models.DIM) * 0.1 + 0.2)
    return model


@torch.no_grad()
def test_the_answer_is_the_texts_alone_and_standardised() -> None:
    model, given = regression(), tiny_models.conditioning(2)
    answer = model(**given)
    assert answer.shape == (2, tiny_models.DIM) and not torch.equal(
        answer[0], answer[1]
    )
    given["text_emb"] = given["text_emb"] + 1
    assert not torch.equal(model(**given), answer)


@pytest.mark.parametrize("rival", [tiny_models.ar_prior, regression])
def test_a_rival_stands_in_for_the_diffusion_prior(rival: Any) -> None:
    unclip = tiny_models.pipeline()
    unclip.prior = rival()
    stages = unclip.stages(["rocket", "rocket"], seed=[1, 2], **FEW)
    assert stages.candidates.shape == (2, 1, tiny_models.DIM)
    assert stages.images.shape == (2, 3, 128, 128)
    assert torch.equal(stages.image_emb[0], stages.image_emb[1]) == (
        rival is regression
    )  # a regression draws nothing
    unclip.prior_stage = replace(unclip.prior_stage, guidance_scale=30.0)
    guided = unclip.stages(["rocket"], seed=1, **FEW)
    assert not torch.allclose(guided.image_emb, stages.image_emb[:1])
    with pytest.raises(Dalle2EduError, match="Only the diffusion prior"):
        unclip.analytic_prior(torch.zeros(1, tiny_models.DIM), ["a cat"])


def test_the_diffusion_prior_can_be_guided() -> None:
    unclip = tiny_models.pipeline()
    drawn = []
    for scale in (1.0, 1 + 1e-9, 5.0):
        unclip.prior_stage = replace(unclip.prior_stage, guidance_scale=scale)
        drawn.append(unclip.stages(["rocket"], **FEW).candidates)
    plain, same, guided = drawn
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)
    assert not torch.allclose(guided, plain, atol=1e-3)


def test_a_prior_that_the_zoo_lacks_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Dalle2EduError, match="prior, ar_prior, regression"):
        UnCLIP.from_zoo("emoji", prior="oracle")  # type: ignore[arg-type]
    real = zoo.load
    monkeypatch.setattr(
        zoo,
        "load",
        lambda domain, part, device: real(domain, part) if part == "ar_prior" else None,
    )
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    with pytest.raises(Dalle2EduError, match="no emoji ar_prior yet") as caught:
        UnCLIP.from_zoo("emoji", prior="ar_prior")
    assert "\n" not in str(caught.value)
