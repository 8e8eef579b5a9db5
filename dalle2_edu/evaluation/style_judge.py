"""The style judge: a small classifier that says which emoji a picture shows, in whose
style.

The idea: "rocket, line art" is a composition that the generator has never seen, since
that drawing is held out from training (`data/emoji.py`). Is its answer a rocket, and is
it line art? The judge answers the two questions apart:

    style   which of the four artists' styles            4 logits
    thing   which of the 2,049 emoji                     2,049 logits, cosines times a scale

Only three or four real pictures show each thing, so the judge learns from them shifted,
scaled, tinted and blurred (`recipes/evaluation.py`). It never sees the held-out
drawings either. So its share of right answers on the *real* held-out pictures is the
ceiling of a generator's score.

To name one of 2,049 emoji is hard (twelve are clock faces), so the question about the
thing is the one that the second CLIP is asked too: is the right one first among 100?

Chapter 20 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu.data import emoji
from dalle2_edu.data.emoji import Drawing, Emoji
from dalle2_edu.evaluation.oracle import convolutions

STYLE_RIGHT = "style right"
THING_FIRST = "thing right first of 100"
OTHERS = 99  # wrong things that the right one is compared with
COSINE_SCALE = 16.0  # of the cosines: a softmax over [-1, 1] alone could never be sure


@dataclass(frozen=True)
class StyleJudgeConfig:
    """The size that pictures are brought to, channels at 1/2, 1/4, 1/8 of it, the
    embedding's width, and how many styles and things there are.
    """

    image_size: int = 32
    channels: tuple[int, ...] = (64, 96, 128)
    width: int = 192
    styles: int = 4
    things: int = 2049


class StyleJudge(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> logits of the styles (B, 4) and of the things
    (B, N).
    """

    def __init__(self, config: StyleJudgeConfig = StyleJudgeConfig()):
        super().__init__()
        self.config = config
        self.features = convolutions(config.channels)
        side = config.image_size // 2 ** len(config.channels)
        flat = config.channels[-1] * side**2  # 128 channels at 4 x 4
        self.join = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, config.width), nn.ReLU()
        )
        self.style = nn.Linear(config.width, config.styles)
        self.embed = nn.Linear(config.width, config.width)
        self.things = nn.Parameter(torch.randn(config.things, config.width))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        small = F.interpolate(images, size=self.config.image_size, mode="area")
        x = self.features(small.to(memory_format=torch.channels_last))  # (B, 128, 4, 4)
        x = self.join(x)  # (B, width)
        # Cosines: with few pictures of a thing, lengths would only tell how well it is
        # learned.
        seen = F.normalize(self.embed(x), dim=1)  # (B, width)
        known = F.normalize(self.things, dim=1)  # (N, width)
        return self.style(x), COSINE_SCALE * seen @ known.T

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 250) -> tuple[Tensor, Tensor]:
        """`forward` in batches, for any number of pictures."""
        parts = [self(part) for part in images.split(batch_size)]
        styles, things = zip(*parts, strict=True)
        return torch.cat(styles), torch.cat(things)


# --- what it is asked -----------------------------------------------------------------


def style_places(drawings: Sequence[Drawing]) -> Tensor:
    """The place of each drawing's style among the styles, int64 (B,)."""
    known = list(emoji.STYLES)
    return torch.tensor([known.index(each.style) for each in drawings])


def thing_places(things: Sequence[Emoji]) -> Tensor:
    """The place of each thing among all, int64 (B,)."""
    known = {thing: place for place, thing in enumerate(emoji.load())}
    return torch.tensor([known[each] for each in things])


def marks(
    judge: StyleJudge, images: Tensor, drawings: Sequence[Drawing], seed: int = 0
) -> dict[str, Tensor]:
    """Which pictures are what was asked for: `STYLE_RIGHT` and `THING_FIRST` -> bool
    (B,).

    images: (B, 3, S, S) in [-1, 1]. drawings: what each picture should be. seed:
    chooses the 99 wrong things of each picture.
    """
    style_logits, thing_logits = judge.predict(images)
    asked = thing_places([each.thing for each in drawings]).to(images.device)
    styles = style_places(drawings).to(images.device)
    return {
        STYLE_RIGHT: style_logits.argmax(dim=1) == styles,
        THING_FIRST: first_of_100(thing_logits, asked, seed),
    }


def first_of_100(logits: Tensor, asked: Tensor, seed: int) -> Tensor:
    """Whether the thing asked for has the largest logit among itself and 99 others,
    bool (B,).

    logits: (B, N). asked: int64 (B,).
    """
    B, N = logits.shape
    generator = torch.Generator().manual_seed(seed)
    others = torch.rand(B, N - 1, generator=generator).topk(min(OTHERS, N - 1)).indices
    others = others.to(logits.device)
    others = others + (others >= asked[:, None])  # (B, 99): jumps over the right one
    right = logits.gather(1, asked[:, None])  # (B, 1)
    return (right > logits.gather(1, others)).all(dim=1)


def ceiling(judge: StyleJudge, seed: int = 0) -> dict[str, float]:
    """The judge's share of right answers on the real held-out pictures, which it never
    saw: no generator can be expected to do better.
    """
    real = emoji.held_out_pairs(judge.config.image_size).images
    images = real.float() / 127.5 - 1  # 0..255 -> [-1, 1]
    device = next(judge.parameters()).device
    found = marks(judge, images.to(device), emoji.held_out(), seed)
    return {name: float(right.float().mean()) for name, right in found.items()}


# --- the same two questions to a CLIP ---------------------------------------------------------


def clip_marks(
    embed_texts: Callable[[Sequence[str]], Tensor],
    image_emb: Tensor,
    drawings: Sequence[Drawing],
    seed: int = 0,
) -> dict[str, Tensor]:
    """`marks` by a CLIP that learned captions with styles, such as the zoo's second one.

    embed_texts: texts -> embeddings of length 1, (N, D). image_emb: of the pictures, (B, D).
    drawings: what each picture should be. Its caption is compared with those of the same thing
    in the other styles, and with those of 99 other things in the same style."""
    style_right, thing_first = [], []
    generator = torch.Generator().manual_seed(seed)
    things = emoji.load()
    for emb, drawing in zip(image_emb, drawings, strict=True):
        right = f"{drawing.thing.en}, {emoji.STYLES[drawing.style].en}"
        rivals = [each.en for each in emoji.STYLES.values()]
        in_styles = [f"{drawing.thing.en}, {style}" for style in rivals]
        chosen = torch.randperm(len(things), generator=generator)[: OTHERS + 1].tolist()
        others = [things[i] for i in chosen if things[i] != drawing.thing][:OTHERS]
        others_named = [
            f"{each.en}, {emoji.STYLES[drawing.style].en}" for each in others
        ]
        scores = embed_texts([right, *others_named]) @ emb  # (100,)
        thing_first.append(bool((scores[0] > scores[1:]).all()))
        best = int((embed_texts(in_styles) @ emb).argmax())
        style_right.append(in_styles[best] == right)
    return {
        STYLE_RIGHT: torch.tensor(style_right),
        THING_FIRST: torch.tensor(thing_first),
    }
