"""The tokenizer: nothing is unknown, both languages fit, and special tokens stay out of
a prompt's reach.
"""

import pytest
import torch

from dalle2_edu.data import emoji, shapes, text
from dalle2_edu.errors import Dalle2EduError


@pytest.fixture(scope="module")
def tokenizer() -> text.Tokenizer:
    return text.default_tokenizer()


def test_a_row(tokenizer: text.Tokenizer) -> None:
    rows = tokenizer(["a rocket", "", "火箭"])
    assert rows.shape == (3, 32)
    assert rows.dtype == torch.int64
    assert tokenizer.vocab_size <= 4096
    assert tokenizer.end_id == tokenizer.vocab_size - 1 == tokenizer.start_id + 1
    assert (
        rows[1].tolist() == [tokenizer.start_id, tokenizer.end_id] + [0] * 30
    )  # the null text
    assert (rows[:, 0] == tokenizer.start_id).all()
    for row, words in zip(rows, ["a rocket", "", "火箭"], strict=True):
        length = len(tokenizer.pieces(words))
        assert row.argmax() == length + 1
        assert row[length + 1] == tokenizer.end_id
        assert (row[1 : length + 1] > 0).all()
        assert (row[length + 2 :] == 0).all()
        assert tokenizer.decode(row) == words


@pytest.mark.parametrize(
    "words", ["🚀👨‍🚀", "naïve café", "नमस्ते", "龘", "さよなら", "x\x00y", "~`^|\\", "Ω"]
)
def test_any_text_survives(tokenizer: text.Tokenizer, words: str) -> None:
    assert tokenizer.decode(tokenizer([words])[0]) == text.normalize(words).strip()


def test_half_a_surrogate_pair_is_no_crash(tokenizer: text.Tokenizer) -> None:
    assert tokenizer.decode(tokenizer(["\ud83d rocket"])[0]) == "? rocket"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A  Rocket ", "a rocket"),
        ("Ａ　ＲＯＣＫＥＴ", "a rocket"),
        ("一个红色圆形，大的。", "一个红色圆形,大的."),
        ("写着“A”的牌子", '写着"a"的牌子'),
        ("红色 圆形", "红色圆形"),
        ("字母 A 在左边", "字母A在左边"),
        ("woman’s hat", "woman's hat"),
    ],
)
def test_what_means_the_same_is_spelt_the_same(
    tokenizer: text.Tokenizer, one: str, other: str
) -> None:
    assert torch.equal(tokenizer([one]), tokenizer([other]))


def test_a_word_is_the_same_token_everywhere(tokenizer: text.Tokenizer) -> None:
    alone = tokenizer(["red"])[0, 1]
    for words in ("a red circle", "circle,red", "红色red", '"red"'):
        assert alone in tokenizer([words])[0]


def test_pieces(tokenizer: text.Tokenizer) -> None:
    assert tokenizer.pieces("A red circle") == ["a", "red", "circle"]
    assert tokenizer.pieces("一个红色圆形") == ["一个", "红色", "圆形"]
    assert "".join(tokenizer.pieces("smiling face")) == "smilingface"
    assert all(piece.startswith("<") for piece in tokenizer.pieces("🪿"))  # bytes


def test_a_prompt_can_not_spell_special_tokens(tokenizer: text.Tokenizer) -> None:
    for words in ("<end>", "<pad>", "<|endoftext|>", "[PAD]"):
        row = tokenizer([words])[0]
        assert (row == tokenizer.end_id).sum() == (row == tokenizer.start_id).sum() == 1
        assert (row[1 : row.argmax()] > 0).all()


def test_what_does_not_fit_is_cut_and_told(tokenizer: text.Tokenizer) -> None:
    fits, long = "red " * 30, "red " * 30 + "Blue sky"
    assert tokenizer.cut(fits) == ""
    assert tokenizer.cut("") == ""
    assert tokenizer.cut(long) == "blue sky"
    row = tokenizer([long])[0]
    assert row[-1] == tokenizer.end_id
    assert torch.equal(row, tokenizer([fits])[0])
    kept = tokenizer.decode(tokenizer(["火箭在飞" * 12])[0])
    assert kept + tokenizer.cut("火箭在飞" * 12) == "火箭在飞" * 12


def test_every_caption_of_ours_fits(tokenizer: text.Tokenizer) -> None:
    captions = [caption for each in emoji.load() for caption in each.captions]
    for style in emoji.STYLES:
        captions += [text for each in emoji.load(style) for text in each.styled(style)]
    generator = torch.Generator().manual_seed(1)
    scenes = shapes.sample_scenes(2000, generator, split="all")
    for language in ("en", "zh"):
        captions += shapes.captions(scenes, language, generator, "full")
    assert not [caption for caption in captions if tokenizer.cut(caption)]
    assert (
        len({tuple(row) for row in tokenizer(captions[:5000]).tolist()}) == 5000
    )  # emoji: no two alike


def test_training_does_not_depend_on_the_order() -> None:
    words = ["a red circle", "a red square", "红色圆形", "a circle"] * 3
    one, other = (
        text.train_tokenizer(words, 300),
        text.train_tokenizer(words[::-1], 300),
    )
    assert one.bpe.to_str() == other.bpe.to_str()
    assert one.vocab_size <= 300
    assert one.pieces("red circle")[0] == "red"


def test_saved_and_loaded(tokenizer: text.Tokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    tokenizer.save(tmp_path / "t.json")
    assert torch.equal(
        text.Tokenizer.load(tmp_path / "t.json")(["火箭 rocket"]),
        tokenizer(["火箭 rocket"]),
    )


def test_mistakes(tokenizer: text.Tokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Dalle2EduError, match="a list of texts"):
        tokenizer("rocket")
    with pytest.raises(Dalle2EduError, match="a list of texts"):
        tokenizer(["rocket", None])  # type: ignore[list-item]
    with pytest.raises(Dalle2EduError, match="not in the vocabulary"):
        tokenizer.decode([99999])
    with pytest.raises(Dalle2EduError, match="259 or more"):
        text.train_tokenizer(["a"], vocab_size=10)
    with pytest.raises(Dalle2EduError, match="259 or more"):
        text.train_tokenizer([])
    (tmp_path / "bad.json").write_text("{")
    for path in ("bad.json", "missing.json"):
        with pytest.raises(Dalle2EduError, match="can't read the tokenizer"):
            text.Tokenizer.load(tmp_path / path)
