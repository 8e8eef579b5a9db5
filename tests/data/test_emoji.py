"""The emoji shards: four styles, names in both languages, and nothing held out in
training.
"""

import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from dalle2_edu.data import emoji
from dalle2_edu.data.artists import PROFESSIONS
from dalle2_edu.errors import Dalle2EduError

STYLES = tuple(emoji.STYLES)


@pytest.fixture(scope="module")
def everybody() -> dict[str, emoji.Emoji]:
    return {each.en: each for each in emoji.load()}


def test_names_and_captions(everybody: dict[str, emoji.Emoji]) -> None:
    # no name stands for two
    assert len(everybody) == len({each.zh for each in everybody.values()}) == 2049
    rocket = everybody["rocket"]
    assert (rocket.character, rocket.zh, rocket.codepoints) == ("🚀", "火箭", "1f680")
    expected = {"rocket", "rocket emoji", "an emoji of a rocket", "火箭", "火箭表情"}
    assert expected <= set(rocket.captions)
    assert everybody["smiling face with sunglasses"].zh == "墨镜笑脸"
    assert everybody["china"].is_flag
    assert not everybody["rocket"].is_flag
    assert everybody["wales"].is_flag


def test_captions_say_the_style_in_both_languages(
    everybody: dict[str, emoji.Emoji],
) -> None:
    said = everybody["rocket"].styled("openmoji")
    expected = {"rocket, line art", "an emoji of a rocket, line art", "火箭，线描"}
    assert expected <= set(said)
    assert all(caption.endswith((", line art", "，线描")) for caption in said)
    styles = emoji.STYLES.values()
    assert len({each.en for each in styles}) == len({each.zh for each in styles}) == 4


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


def test_skin_tones_are_those_of_ten_professions(
    everybody: dict[str, emoji.Emoji],
) -> None:
    toned = [each.en for each in everybody.values() if each.is_toned]
    workers = [name.removeprefix("wo").removeprefix("man ") for name in toned]
    counts = Counter(
        worker for name in workers for worker in PROFESSIONS if name.startswith(worker)
    )
    assert set(counts.values()) == {15}  # three genders, five tones
    assert len(counts) == 10
    assert len(toned) == 150
    assert "woman cook dark skin tone" in everybody
    assert "thumbs up dark skin tone" not in everybody


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


def test_pictures_are_in_the_order_of_load() -> None:
    images, things = emoji.pictures(32), emoji.load()
    assert images.shape == (2049, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert [each.character for each in things] == sorted(
        each.character for each in things
    )
    places = {each.en: place for place, each in enumerate(things)}
    # One that was learned in this style, and one that was held out.
    for name in ("red heart", next(each.thing.en for each in emoji.held_out(["noto"]))):
        thing = things[places[name]]
        shard = (
            emoji.shard("noto") if name == "red heart" else emoji.held_out_shard("noto")
        )
        place = [each.en for each in emoji.things_in(shard)].index(thing.en)
        found = emoji.shards.pairs(shard, 32).images[place]
        assert torch.equal(images[places[name]], found)


@pytest.mark.parametrize("style", STYLES)
def test_every_picture_is_on_white_and_none_is_blank(style: str) -> None:
    images = emoji.pictures(32, style)
    # (N, 3, 4) -> (N, 12)
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten(1)
    assert (corners > 240).all(dim=1).float().mean() > 0.9
    # share of the picture
    ink = (images.amin(dim=1) < 235).flatten(1).float().mean(dim=1)
    assert ink.min() > 0.03
    rows = (images.amin(dim=1) < 235).any(dim=2)  # (N, 32)
    columns = (images.amin(dim=1) < 235).any(dim=1)
    longest = torch.maximum(rows.sum(dim=1), columns.sum(dim=1)).float()
    assert 29 <= longest.median() <= 32  # the four fill their canvas alike


# --- what is held out -----------------------------------------------------------------


def test_no_drawing_is_both_learned_and_held_out() -> None:
    learned, held = set(emoji.drawings()), set(emoji.held_out())
    assert not learned & held
    assert len(learned) + len(held) == sum(len(emoji.load(style)) for style in STYLES)
    assert 0.05 < len(held) / (len(learned) + len(held)) < 0.08
    counts = Counter(each.style for each in held)
    # balanced over the styles
    assert min(counts.values()) > 0.75 * max(counts.values())


def test_what_is_held_out_is_learned_in_two_other_styles() -> None:
    styles = Counter(each.thing for each in emoji.drawings())
    held = emoji.held_out()
    # one style of a thing at most
    assert len({each.thing for each in held}) == len(held)
    assert min(styles[each.thing] for each in held) >= 2
    assert not any(each.thing.is_toned for each in held)


def test_the_shards_follow_the_rule() -> None:
    styles_of: dict[emoji.Emoji, list[str]] = {}
    for style in STYLES:
        for thing in emoji.load(style):
            styles_of.setdefault(thing, []).append(style)
    for each in emoji.held_out():
        assert emoji.held_out_style(each.thing, styles_of[each.thing]) == each.style
    left = [
        each
        for each in emoji.drawings()
        if emoji.held_out_style(each.thing, styles_of[each.thing]) == each.style
    ]
    assert len(left) < 40  # those with the same picture as another emoji


def test_the_rule_is_the_same_everywhere() -> None:
    rocket = emoji.Emoji("🚀", "rocket", "火箭")
    apple = emoji.Emoji("🍎", "red apple", "红苹果")
    assert emoji.held_out_style(rocket, STYLES) is None
    assert emoji.held_out_style(apple, STYLES) == "fluent"
    assert emoji.held_out_style(apple, STYLES[::-1]) == "fluent"
    assert emoji.held_out_style(apple, STYLES[:2]) is None  # too few would be left


def test_training_pairs_are_those_of_drawings() -> None:
    pairs = emoji.pairs(16)
    drawings = emoji.drawings()
    assert len(pairs) == len(drawings)
    for captions, each in zip(pairs.captions, drawings, strict=True):
        assert captions == [*each.thing.captions, *each.thing.styled(each.style)]


def test_held_out_pairs_say_their_style() -> None:
    pairs, held = emoji.held_out_pairs(16, ["openmoji"]), emoji.held_out(["openmoji"])
    assert len(pairs) == len(held) > 50
    assert pairs.captions == [each.thing.styled("openmoji") for each in held]


# --- licences -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ("noto", "SIL OPEN FONT LICENSE"),
        ("twemoji", "https://creativecommons.org/licenses/by/4.0/"),
        ("openmoji", "https://creativecommons.org/licenses/by-sa/4.0/"),
        ("fluent", "Permission is hereby granted, free of charge"),
    ],
)
def test_each_shard_carries_its_licence(style: str, said: str) -> None:
    notice = emoji.notice(style).read_text(encoding="utf-8")
    assert said in notice
    for path in emoji.files_of(style):
        with tarfile.open(path) as tar:
            first = tar.next()
            assert first is not None
            assert first.name == "LICENSE"
            assert tar.extractfile(first).read().decode() == notice  # type: ignore[union-attr]


def test_the_shards_are_small() -> None:
    files = [path for style in STYLES for path in emoji.files_of(style)]
    assert sum(path.stat().st_size for path in files) <= 30_000_000


# --- mistakes -------------------------------------------------------------------------


def test_unknown_styles_and_missing_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        Dalle2EduError, match="'oil'; known: noto, twemoji, fluent, openmoji"
    ):
        emoji.pictures(32, "oil")
    monkeypatch.setattr(emoji, "FOLDER", tmp_path)
    with pytest.raises(Dalle2EduError, match="dalle2-edu data emoji"):
        emoji.pairs(32)
