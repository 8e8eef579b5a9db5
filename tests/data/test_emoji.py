"""The emoji shard: complete, named in both languages, and built again to the same
bytes.
"""

import tarfile

import pytest
import torch

from dalle2_edu.data import emoji, shards
from dalle2_edu.errors import Dalle2EduError

needs_font = pytest.mark.skipif(
    not emoji.FONT.is_file(), reason="fonts-noto-color-emoji is not installed"
)


@pytest.fixture(scope="module")
def everybody() -> dict[str, emoji.Emoji]:
    return {each.en: each for each in emoji.load()}


def test_names_and_captions(everybody: dict[str, emoji.Emoji]) -> None:
    assert (
        len(everybody) == len({each.zh for each in everybody.values()}) == 3789
    )  # no name stands for two
    rocket = everybody["rocket"]
    assert (rocket.character, rocket.zh, rocket.codepoints) == ("🚀", "火箭", "1f680")
    assert {
        "rocket",
        "rocket emoji",
        "an emoji of a rocket",
        "火箭",
        "火箭表情",
    } <= set(rocket.captions)
    assert "火箭" in rocket.captions
    assert everybody["smiling face with sunglasses"].zh == "墨镜笑脸"
    assert everybody["china"].is_flag
    assert not everybody["rocket"].is_flag
    assert everybody["wales"].is_flag


def test_every_caption_means_one_emoji(everybody: dict[str, emoji.Emoji]) -> None:
    captions = [
        caption
        for each in everybody.values()
        for caption in {text.lower() for text in each.captions}
    ]
    assert len(captions) == len(set(captions))
    assert all(
        caption and caption == caption.strip() and "_" not in caption
        for caption in captions
    )


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [
        ("rocket", "a rocket"),
        ("owl", "an owl"),
        ("smiling face with sunglasses", "a smiling face with sunglasses"),
        ("sunglasses", "sunglasses"),
        ("women holding hands", "women holding hands"),
        ("bus", "a bus"),
    ],
)
def test_articles(noun: str, phrase: str) -> None:
    assert emoji.with_article(noun) == phrase


def test_pairs_are_pictures_in_the_order_of_load() -> None:
    pairs = emoji.pairs(32)
    assert pairs.images.shape == (3789, 3, 32, 32)
    assert pairs.images.dtype == torch.uint8
    assert pairs.captions == [each.captions for each in emoji.load()]
    corners = pairs.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten(
        1
    )  # (N, 3, 4) -> (N, 12)
    assert (corners > 240).all(dim=1).float().mean() > 0.9  # on white
    assert (pairs.images.flatten(1).float().std(dim=1) > 1).all()  # none is blank

    heart = next(
        place for place, each in enumerate(emoji.load()) if each.en == "red heart"
    )
    red, green, blue = pairs.images[heart, :, 16, 16].tolist()
    assert red > 200
    assert green < 100
    assert blue < 100


def test_the_shard_is_small_and_carries_its_licence() -> None:
    assert emoji.SHARD.stat().st_size <= 15_000_000
    with tarfile.open(emoji.SHARD) as tar:
        first = tar.next()
        assert first is not None
        assert first.name == "LICENSE"
        notice = tar.extractfile(first).read().decode()  # type: ignore[union-attr]
    assert notice == emoji.NOTICE.read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in notice


@needs_font
def test_what_the_font_can_not_join_is_left_out() -> None:
    font = emoji.open_font(emoji.FONT)
    rocket = emoji.draw("🚀", font)
    assert rocket is not None
    assert rocket.shape == (3, 128, 128)
    assert (
        emoji.draw("👨‍🚀", font) is not None
    )  # man + joiner + rocket: one glyph, an astronaut
    assert emoji.draw("🚀🚀", font) is None  # two glyphs side by side
    assert emoji.draw("\U0001faee", font) is None  # a code point that no emoji has yet


@needs_font
def test_the_builder_gives_the_same_bytes_each_time(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    few = [each for each in emoji.load() if each.en in ("rocket", "cat", "china")]
    monkeypatch.setattr(emoji, "catalogue", lambda: few)
    assert emoji.build(tmp_path / "a.tar") == emoji.build(tmp_path / "b.tar") == 3
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert emoji.load(tmp_path / "a.tar") == few
    assert shards.pairs(tmp_path / "a.tar", 64).captions == [
        each.captions for each in few
    ]


@needs_font
def test_the_shipped_names_are_the_packages() -> None:
    pytest.importorskip("emoji")
    catalogue = emoji.catalogue()
    assert len(catalogue) >= 3963
    assert set(emoji.load()) <= set(catalogue)


def test_missing_font_and_missing_shard(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Dalle2EduError, match="fonts-noto-color-emoji"):
        emoji.build(tmp_path / "x.tar", font=tmp_path / "none.ttf")
    assert not list(tmp_path.iterdir())
    with pytest.raises(Dalle2EduError, match="dalle2_edu.data.emoji"):
        emoji.pairs(32, tmp_path / "none.tar")
