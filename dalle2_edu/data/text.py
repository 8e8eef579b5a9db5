"""Text: from a sentence to numbers, by byte-pair encoding (BPE).

Read in chapter 02 (data and tokens).

A network reads integers. One integer a word needs a dictionary without end and is
helpless before a new word; one a letter makes long sequences. Byte-pair encoding
(Sennrich et al., arXiv 1508.07909, section 3.2) lies between:

    start with the 256 bytes as symbols; then, again and again, take the pair of neighbours that is most
    frequent in the training text, and make it one new symbol.

Frequent words end as one symbol, rare ones as a few pieces, and because every text is
bytes (UTF-8), nothing is ever unknown: not a typing error, not an emoji. GPT-2 does it
so, and CLIP, GLIDE and DALL·E 2 follow with a vocabulary of about 50,000; this one has
at most 4,096 for English and Chinese together.

Chinese has no spaces. A merge across characters would learn whole phrases of our small
grammar ("红色的圆形" as one symbol), and a model could not take them apart. So each Chinese
character is kept by itself, usually one token, at worst its three bytes; only a few
words that come in every other caption (红色, 背景, 左边) stay whole.

In reading order: the rules that text is cleaned and cut by, training, the `Tokenizer`
that models use, and the shipped one (`default_tokenizer`, trained on the captions of
the emoji and the shapes).
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write, read_text

SHIPPED = Path(__file__).with_name("tokenizer.json")
# tokens a caption may take, with the start and the end token; CLIP's is 77, unCLIP's
# 256
CONTEXT = 32
MOST_TOKENS = 4096  # the largest vocabulary, with pad, start and end
SPECIAL = 3
MARK = 1  # ids of BPE symbols are moved up by one, to make room for pad = 0

# Chinese characters, for use inside [...]
HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LETTERS = "0-9a-z\u00df-\u04ff"  # Latin, Greek and Cyrillic small letters, and digits
WORD_START = re.compile(rf"(?<![{LETTERS}'\- ])(?=[{LETTERS}])")

# Marks that Unicode's NFKC leaves as they are, though they mean the same. (， and （
# become , and ( by themselves.)
SAME_MARKS = str.maketrans(
    {
        "。": ".",
        "、": ",",
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "「": '"',
        "」": '"',
        "《": '"',
        "》": '"',
    }
)

# Chinese words that stay whole: "a", any colour, sides, and the long nouns of the
# shapes. With them the longest caption of the shapes fits into the context; character
# by character it would take 41 tokens.
CHINESE_WORDS = (
    r"一[个颗块]|\p{Han}色|[上下左右][面边侧方]|没有|[花条]纹|[圆波]点|背景"
    r"|圆[形环]|正方形|三角形|菱形|五角星|十字"
)
# What no merge may cross, in this order: a word in letters with the space before it,
# one digit, one Chinese word of those above, any other Chinese character, a mark.
PIECES = (
    rf" ?[\p{{L}}\p{{M}}&&[^\p{{Han}}]]+| ?\d|{CHINESE_WORDS}|\p{{Han}}|"
    r" ?[^\s\p{L}\p{M}\d]|\s"
)


# --- The rules ------------------------------------------------------------------------


def normalize(text: str) -> str:
    """One spelling for what means the same: "Ａ  Rocket，" and "a rocket," become equal.

    Afterwards each word in letters has a space before it, at the start of a text too
    (so that "rocket" is the same token everywhere), and no space touches a Chinese
    character.
    """
    text = text.encode("utf-8", "replace").decode(
        "utf-8"
    )  # half of a surrogate pair becomes "?"
    text = unicodedata.normalize("NFKC", text).lower().translate(SAME_MARKS)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(rf" ?([{HAN}]) ?", r"\1", text)
    return WORD_START.sub(" ", text)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts text where no merge may cross, then writes each byte as one printable letter
    (a space as "Ġ").
    """
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int = MOST_TOKENS) -> "Tokenizer":
    """Learns the merges from texts; the same texts give the same tokenizer, in whatever
    order they come.

    vocab_size: the most tokens there may be, with pad, start and end. Training stops
    earlier where nothing is left to merge. Raises Dalle2EduError where there are no
    texts or not even the 256 bytes fit.
    """
    known = sorted(texts)
    if not known or vocab_size < 256 + SPECIAL:
        raise Dalle2EduError(
            f"a tokenizer needs texts and a vocabulary of {256 + SPECIAL} or more: "
            f"there are {len(known)} texts and vocab_size={vocab_size}"
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizer()
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - SPECIAL,
        # all 256, seen or not
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(map(normalize, known), trainer)
    return Tokenizer(bpe)


# --- What models use ------------------------------------------------------------------


class Tokenizer:
    """Turns texts into rows of token ids and back.

    A row is [start, tokens..., end, pad, pad, ...]. Pad is 0, then come the BPE
    symbols, then start and end. End has the largest id because CLIP reads a text at the
    place of the largest id in the row. The three are not symbols of the text: no prompt
    can spell them.
    """

    context_length = CONTEXT
    pad_id = 0

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self.bpe = bpe
        self.vocab_size = bpe.get_vocab_size() + SPECIAL
        self.start_id = self.vocab_size - 2
        self.end_id = self.vocab_size - 1

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> "Tokenizer":
        """Reads a tokenizer that `save` wrote; raises Dalle2EduError where it can't."""
        try:
            return cls(tokenizers.Tokenizer.from_str(read_text(path)))
        # the library raises bare Exception for what is no tokenizer
        except Exception as error:
            raise Dalle2EduError(
                f"can't read the tokenizer {path}: make the shipped one by `python -m"
                " dalle2_edu.data.text`"
            ) from error

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer as one JSON file."""
        atomic_write(path, self.bpe.to_str(pretty=True))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The ids of B texts, int64 (B, context_length); what does not fit is cut off
        (`cut` tells what).

        "" is allowed: [start, end, pad, ...] is the null text of classifier-free
        guidance. Raises Dalle2EduError for anything that is not a list of strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise Dalle2EduError(
                'the tokenizer takes a list of texts, such as ["rocket", "火箭"], not'
                f" {texts!r:.60}"
            )
        rows = torch.full(
            (len(texts), self.context_length), self.pad_id, dtype=torch.int64
        )  # (B, L)
        encodings = self.bpe.encode_batch([normalize(text) for text in texts])
        for row, encoding in zip(rows, encodings, strict=True):
            ids = [MARK + symbol for symbol in encoding.ids[: self.context_length - 2]]
            row[: len(ids) + 2] = torch.tensor([self.start_id, *ids, self.end_id])
        return rows

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of one row of ids, (L,), up to its end token, as `normalize` spelt
        it.
        """
        symbols: list[int] = []
        for token in [int(token) for token in ids]:
            if not 0 <= token < self.vocab_size:
                raise Dalle2EduError(
                    f"token {token} is not in the vocabulary of 0 ... {self.vocab_size - 1}"
                )
            if token == self.end_id:
                break
            if token not in (self.pad_id, self.start_id):
                symbols.append(token - MARK)
        return self.bpe.decode(symbols).strip()

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text as a reader can see them, all of them: "a rocket" ->
        ["a", "rocket"].

        A piece of a character, which no screen can show, is written as its bytes: "<f0
        9f>".
        """
        return [
            self._readable(symbol) for symbol in self.bpe.encode(normalize(text)).tokens
        ]

    @staticmethod
    def _readable(symbol: str) -> str:
        data = bytes(BYTE_OF_LETTER[letter] for letter in symbol)
        try:
            return data.decode("utf-8").strip() or " "
        except UnicodeDecodeError:
            return f"<{data.hex(' ')}>"

    def cut(self, text: str) -> str:
        """The tail of a text that does not fit into the context, as `normalize` spells
        it; "" if all fits.
        """
        spelt = normalize(text)
        offsets = self.bpe.encode(spelt).offsets[self.context_length - 2 :]
        return spelt[offsets[0][0] :].strip() if offsets else ""


def letters_of_bytes() -> dict[str, int]:
    """The byte behind each letter of byte-level BPE.

    Printable bytes stand for themselves, the others are the letters from U+0100 on (as
    in GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


BYTE_OF_LETTER = letters_of_bytes()


# --- The shipped one ------------------------------------------------------------------


@lru_cache(maxsize=1)
def default_tokenizer() -> Tokenizer:
    """The tokenizer that ships with the package, trained on the captions of the emoji
    and the shapes.

    Its merges were learned before the emoji had styles, and from more skin tones.
    Trained again, it would spell "rocket, muted flat" in two tokens fewer; the models
    would have to be trained again with it.
    """
    return Tokenizer.load(SHIPPED)


def training_texts(scenes: int = 4000) -> list[str]:
    """The captions of all emoji, in no style and in every style, and of some scenes of
    shapes in both languages; the same ones every time.
    """
    from dalle2_edu.data import (
        emoji,
        shapes,
    )  # wanted here alone: a tokenizer is loaded without either

    texts = [caption for each in emoji.load() for caption in each.captions]
    for style in emoji.STYLES:
        texts += [
            caption for each in emoji.load(style) for caption in each.styled(style)
        ]
    generator = torch.Generator().manual_seed(0)
    drawn = shapes.sample_scenes(scenes, generator)
    for language in ("en", "zh"):
        for detail in ("full", "mixed"):
            texts += shapes.captions(drawn, language, generator, detail)
    return texts


def main() -> None:
    """Trains the shipped tokenizer again: `python -m dalle2_edu.data.text`."""
    try:
        tokenizer = train_tokenizer(training_texts())
    except Dalle2EduError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    tokenizer.save(SHIPPED)
    print(f"{tokenizer.vocab_size} tokens: {SHIPPED}")


if __name__ == "__main__":
    main()
