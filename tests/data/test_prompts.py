"""Prompts: what is pasted with them, emoji, traditional characters, and what was never
read.
"""

import random

import pytest

from dalle2_edu.data import emoji, prompts
from dalle2_edu.data.domains import pick_domain
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.drawing.run import checked_prompts, checked_seeds
from dalle2_edu.errors import Dalle2EduError


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("\ufeffrocket", "rocket"),
        ("ro\u200bck\u00adet\u202c\x07", "rocket"),
        ("a\tred\n heart ", "a red  heart"),
        ("🚀", "rocket"),
        ("❤", "red heart"),
        ("❤\ufe0f", "red heart"),
        ("👨\u200d🚀", "man astronaut"),
        ("画🚀", "画 火箭"),
        ("一隻黑貓", "一只黑猫"),
        ("澳門", "澳門"),  # a caption of ours has these characters
        ("café, à 3 €", "café, à 3 €"),
        ("\u200b \ufeff", ""),
    ],
)
def test_a_prompt_is_read_in_the_words_of_the_captions(typed: str, read: str) -> None:
    assert prompts.read_prompt(typed) == read


def test_every_emoji_is_read_as_its_name_and_no_caption_is_changed() -> None:
    for each in emoji.load():
        assert prompts.read_prompt(each.character) == each.en
        assert all(prompts.read_prompt(caption) == caption for caption in each.captions)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (None, "is a text"),
        (b"rocket", "is a text"),
        ("caf\udce9", "UTF-8"),
        ("rocket " * 20_000, "140,000 characters"),
        ("", "empty"),
        ("\u200b", "empty"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_short_line(
    typed: object, said: str
) -> None:
    with pytest.raises(Dalle2EduError, match=said) as caught:
        checked_prompts([typed], default_tokenizer())  # type: ignore[list-item]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_list_without_a_prompt_is_said_to_be_one() -> None:
    with pytest.raises(Dalle2EduError, match="list of prompts is empty"):
        checked_prompts([], default_tokenizer())


@pytest.mark.parametrize("typed", ["xqzw blorp", "un gato rojo", "क", "the", "!!"])
def test_words_that_no_caption_holds_draw_a_warning(typed: str) -> None:
    with pytest.warns(UserWarning, match="No word of"):
        checked_prompts([typed], default_tokenizer())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "typed", ["a blorp cat", "黑貓", "🚀", "RED", "a sign that says XY"]
)
def test_one_known_word_is_enough(typed: str) -> None:
    assert len(checked_prompts([typed], default_tokenizer())) == 1


def test_a_long_tail_is_named_by_its_two_ends() -> None:
    with pytest.warns(
        UserWarning, match="cut off: .red heart.* … .*on a sign"
    ) as caught:
        checked_prompts(["red heart " * 150 + "on a sign"], default_tokenizer())
    assert len(str(caught[0].message)) < 200


def test_the_domain_is_that_of_the_prompt_as_it_is_read() -> None:
    assert pick_domain("一個紅色的圓形") == pick_domain("一个红色的圆形") == "shapes"
    assert pick_domain("🚀") == "emoji"


@pytest.mark.parametrize("seed", [None, 1.5, "7", [1, None], [1.5, 2]])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(Dalle2EduError, match="whole number"):
        checked_seeds(seed, 2)  # type: ignore[arg-type]


def test_any_text_at_all_is_read_or_refused() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(
            chr(draw.randrange(0x11_0000)) for _ in range(draw.randrange(20))
        )
        try:
            read = prompts.read_prompt(text)
        except Dalle2EduError:
            assert any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
        else:
            assert read == prompts.visible(read).strip()


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (
            "rocket, oil painting",
            "no style 'oil painting'; known: soft shading, muted flat",
        ),
        ("An emoji of a rocket, Cubism", "no style 'cubism'"),
        ("火箭，油画", "no style '油画'; known: 柔和渐变, 素色扁平, 亮色扁平, 线描"),
        ("rocket, line art", ""),
        ("Rocket, LINE ART", ""),
        ("火箭，线描", ""),
        ("rocket", ""),
        ("a red circle, a blue square", ""),  # no emoji's name before the comma
    ],
)
def test_an_unknown_style_is_told_with_the_known(prompt: str, told: str) -> None:
    said = prompts.unknown_style(prompt)
    assert told in said
    assert bool(told) == bool(said)
    assert "\n" not in said


def test_who_draws_is_warned_of_an_unknown_style() -> None:
    with pytest.warns(UserWarning, match="no style 'oil painting'"):
        checked_prompts(["rocket, oil painting"], default_tokenizer())


@pytest.mark.parametrize(
    "prompt", ["red heart, line art", "Red heart，线描", "red heart, oil"]
)
def test_a_style_does_not_hide_the_thing(prompt: str) -> None:
    # the heart is a shape as well
    assert pick_domain("a red heart on white") == "shapes"
    assert pick_domain(prompt) == "emoji"
