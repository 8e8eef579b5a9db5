"""Retrieval with embeddings that are known, and distractors that are truly wrong."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.alignment import (
    choose_distractors,
    clip_score,
    embed_images,
    embed_texts,
    retrieval_ranks,
)


class KnownClip:
    """A picture's embedding is its first two values; a text's is at the angle that it
    spells, in degrees.
    """

    def encode_image(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]

    def encode_text(self, tokens: Tensor) -> SimpleNamespace:
        angle = torch.deg2rad(tokens[:, 0].float())
        return SimpleNamespace(text_emb=torch.stack([angle.cos(), angle.sin()], dim=1))


def tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([[int(text)] for text in texts])


def test_ranks_count_the_wrong_captions_that_are_as_near() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[:, 0, 0, 0] = 1.0  # every picture points to 0 degrees
    image_emb = embed_images(KnownClip(), images, batch_size=2)
    right = embed_texts(KnownClip(), tokenize, ["10", "40", "30"], batch_size=2)
    wrong = embed_texts(KnownClip(), tokenize, ["20", "30", "80"])[None].expand(3, 3, 2)
    assert retrieval_ranks(image_emb, right, wrong).tolist() == [
        1,
        3,
        3,
    ]  # the last one ties with 30
    # 100 cos 10
    assert clip_score(image_emb, right)[0] == pytest.approx(98.48, abs=0.01)
    assert clip_score(-image_emb, right)[0] == 0


NAMES = ["boat", "Sail Boat", "rocket", "Rocket ", "cat", "dog", "owl"]
CAPTIONS = [
    ["boat", "船"],
    ["sail boat", "boat"],
    ["rocket"],
    ["rocket"],
    ["cat"],
    ["dog"],
    ["owl"],
]


def test_distractors_never_name_the_picture() -> None:
    for seed in range(20):
        rows = choose_distractors(
            NAMES, CAPTIONS, chosen=[0, 2, 4], count=4, seed=seed
        ).tolist()
        assert not {0, 1} & set(rows[0])  # 1 is called "boat" too
        assert not {2, 3} & set(rows[1])  # the same name but for case and space
        assert all(len({NAMES[i].strip().lower() for i in row}) == 4 for row in rows)


def test_distractors_depend_on_the_seed_alone() -> None:
    first = choose_distractors(NAMES, CAPTIONS, [4, 5], count=3, seed=1)
    assert torch.equal(
        first, choose_distractors(NAMES, CAPTIONS, [4, 5], count=3, seed=1)
    )
    assert any(
        not torch.equal(first, choose_distractors(NAMES, CAPTIONS, [4, 5], 3, seed))
        for seed in range(2, 6)
    )


def test_too_few_distractors() -> None:
    with pytest.raises(Dalle2EduError, match="'boat' needs 9 wrong captions"):
        choose_distractors(NAMES, CAPTIONS, [0], count=9)
