"""Fresh scenes: a function of the indices, in both languages, in families where
asked.
"""

from __future__ import annotations

import torch

from dalle2_edu.recipes.fresh import FreshScenes


def test_a_batch_is_a_function_of_its_indices() -> None:
    data = FreshScenes(16)
    images, captions = data.take(torch.arange(8))
    again, same = data.take(torch.arange(8))
    assert torch.equal(images, again)
    assert captions == same
    others, _ = data.take(torch.arange(8, 16))
    assert not torch.equal(images, others)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.uint8


def test_captions_are_in_both_languages_and_of_both_details() -> None:
    _, captions = FreshScenes(8).take(torch.arange(200))
    texts = [text for (text,) in captions]
    assert all(texts)
    chinese = [
        text for text in texts if any("\u4e00" <= letter <= "\u9fff" for letter in text)
    ]
    assert 60 < len(chinese) < 140


def test_relatives_stand_a_family_apart() -> None:
    images, _ = FreshScenes(16, family=4).take(torch.arange(64))
    first, second = images[:16].float(), images[16:32].float()
    alike = (first - second).abs().mean(dim=(1, 2, 3)).median()
    strangers = (first - second.roll(1, dims=0)).abs().mean(dim=(1, 2, 3)).median()
    assert alike < 0.6 * strangers
