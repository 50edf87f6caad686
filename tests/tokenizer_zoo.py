"""Small tokenizers of every kind that is counted by chunks, trained on the spot."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from outdim.tokens.regexes import CUTS_OF_REGEX
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The quick brown fox doesn't jump over the lazy dog's 1,234 friends; they've (never) \"met\".",
    "Hello, world! It's 3.14159 or 22/7 -- isn't it? We'll see: I'd say so, she said 'twas fine.",
    "naïve café résumé coöperate Ångström ﬁne ½ ² ™ ΑΒΓ Ελληνικά ςσ Straße ISTANBUL İstanbul",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，"
    "并应以兄弟关系的精神相对待。 中 文 abc中文abc",
    "يُولَدُ جَمِيعُ النَّاسِ أَحْرَارًا مُتَسَاوِينَ فِي الْكَرَامَةِ وَالْحُقُوقِ. \u0600 ١٢٣",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "👩\u200d👩\u200d👧 family 👍🏽 flags 🇩🇪🇫🇷 hearts ❤\ufe0f and 😀😀 text",
    "def f(x):\n    if x > 0:\n\t\treturn x**2  # square\n\n"
    "    return {'a': [1, 2], \"b\": None}\n",
    "すべての人間は、生まれながらにして自由であり 한국어 사람은 태어날 때부터 ภาษาไทย हिन्दी",
    "a  b   c\td\r\ne\u00a0f\u3000g\u2003h\u200bi\ufeffj \x00k\x07l\x1cm \x85n\u2028o",
    "` `` ''' x''y e\u0301 \u0301x  \u0338 = \u0338 <\u0338 a \u0301b \u0308 ¨x ﷺ y ´ z\u00ad-q",
    "[CLS] x [SEP]y <s>z</s> <mask> [MASK]. <unk><unk> <|endoftext|>a b<|endoftext|> [UNK]s <pad>",
    "\u2581 lower\u2581one eighth \u2581\u2581two \u2581 x",
]

FRAGMENTS = [
    *[
        "a",
        "B",
        "the",
        "The",
        "fox",
        "s",
        "t",
        "ll",
        "7",
        "42",
        "1234567",
        "é",
        "e\u0301",
        "ß",
        "İ",
    ],
    *[" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\x0b", "\x0c", "\x00"],
    *["\u00a0", "\u3000", "\u2003", "\u200b", "\u200d", "\ufeff", "\u2028", "\x85", "\x1c", "\x07"],
    *[
        "\u0301",
        "\u0338",
        "\u0308",
        "\u0600",
        "\u00ad",
        "¨",
        "´",
        "ﷺ",
        "ﬁ",
        "½",
        "\ufffd",
        "\u180e",
    ],
    *["'", "'s", "'T", "'re", "’", "“", "—", ".", ",", ";", "!", "?", "(", ")", "[", "]", "<", ">"],
    *['"', "``", "''", "-", "_", "/", "\\", "#", "##", "$", "%", "&", "*", "@", "^", "|", "~", "="],
    *["中", "文", "。", "，", "あ", "ア", "한", "ไ", "हि", "ال", "َ", "١", "я", "Ж", "σ", "ς", "Σ"],
    *[
        "👍",
        "👍🏽",
        "👩\u200d👧",
        "❤\ufe0f",
        "🇩🇪",
        "𝔘",
        "\U000e0041",
        "\ue000",
        "\u2581",
        "\u2581a",
    ],
    *["[SEP]", "[CLS]", "[UNK]", "[MASK]", "<s>", "</s>", "<unk>", "<mask>", "<pad>", "[", "<|"],
    *["<|endoftext|>", "[sep]", "‡", "¶", "§", "x" * 40, "lowe" * 30],
]

Build = Callable[[list[str]], Any]


def _fast(inner: Tokenizer, **special: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def _wordpiece(texts: list[str], **options: Any) -> Any:
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    inner.normalizer = normalizers.BertNormalizer(**options)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=names, show_progress=False)
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _fast(
        inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _byte_level(texts: list[str], pre: Any, normalizer: Any = None, roberta: bool = False) -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>"] if roberta else ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if not roberta:
        return _fast(inner, bos_token=names[0], eos_token=names[0], unk_token=names[0])
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return _fast(
        inner,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


def _split(name: str, *, inverted: bool = False, prefix: bool = False) -> Any:
    behavior = "removed" if inverted else "isolated"
    split = pre_tokenizers.Split(Regex(CUTS_OF_REGEX[name][0]), behavior, invert=inverted)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def _sentencepiece(
    texts: list[str], model: str, pre: Any, normalizer: Any = None, specials: bool = True
) -> Any:
    names = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer: Any
    if model == "unigram":
        inner = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=700, special_tokens=names, unk_token="<unk>", show_progress=False
        )
    else:
        inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        alphabet = sorted({"\u2581", *"".join(texts)} - {" "})[::2]  # half of it: some is unknown
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=names,
            show_progress=False,
            limit_alphabet=200,
            initial_alphabet=["\u2581", *alphabet[:50]],
        )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.train_from_iterator(texts, trainer)
    inner.pre_tokenizer = pre
    if specials:
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 2)]
        )
    return _fast(inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _metaspace(scheme: str = "always", split: bool = True) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


def _after_whitespace(scheme: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), _metaspace(scheme)])


def _unsplit(texts: list[str], **made: Any) -> Any:
    """Trained with spaces split, then run over unsplit text, as Llama 2 and Gemma are."""
    tokenizer = _sentencepiece(texts, "bpe", _metaspace())
    inner = tokenizer.backend_tokenizer
    if "normalizer" in made:
        inner.normalizer = made["normalizer"]
    if "pre" in made:
        inner.pre_tokenizer = made["pre"]
    elif "normalizer" in made:
        inner.pre_tokenizer = pre_tokenizers.Sequence([])
    return tokenizer


def _with_added_word(texts: list[str]) -> Any:
    tokenizer = _wordpiece(texts, lowercase=True)
    tokenizer.add_tokens(["fox", "ld", "."])
    return tokenizer


_MARKED = normalizers.Replace(" ", "\u2581")
_PREPENDED = normalizers.Sequence([normalizers.Prepend("\u2581"), _MARKED])
_SPM_LIKE = [
    normalizers.Replace("``", '"'),
    normalizers.Replace("''", '"'),
    normalizers.NFKD(),
    normalizers.StripAccents(),
    normalizers.Lowercase(),
    normalizers.Replace(Regex(" {2,}"), " "),
]
_DEBERTA = [
    normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
    normalizers.NFC(),
    normalizers.Strip(left=False, right=True),
]
_CLIP = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]

BUILD: dict[str, Build] = {
    "bert uncased": lambda t: _wordpiece(t, lowercase=True),
    "bert cased": lambda t: _wordpiece(t, lowercase=False),
    "bert accents": lambda t: _wordpiece(t, lowercase=True, strip_accents=False),
    "bert no cjk": lambda t: _wordpiece(t, lowercase=False, handle_chinese_chars=False),
    "bert not cleaned": lambda t: _wordpiece(t, lowercase=True, clean_text=False),
    "bert added words": _with_added_word,
    "gpt2": lambda t: _byte_level(t, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2 prefix": lambda t: _byte_level(t, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "neox": lambda t: _byte_level(
        t, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()
    ),
    "roberta": lambda t: _byte_level(
        t, pre_tokenizers.ByteLevel(add_prefix_space=False), roberta=True
    ),
    "gpt4": lambda t: _byte_level(t, _split("GPT-4")),
    "llama3": lambda t: _byte_level(t, _split("Llama 3")),
    "llama3 inverted": lambda t: _byte_level(t, _split("Llama 3", inverted=True)),
    "gpt4 prefix": lambda t: _byte_level(t, _split("GPT-4", prefix=True)),
    "qwen2": lambda t: _byte_level(t, _split("Qwen 2"), normalizers.NFC()),
    "qwen3.5": lambda t: _byte_level(t, _split("Qwen 3.5"), normalizers.NFC()),
    "gpt4o": lambda t: _byte_level(t, _split("GPT-4o")),
    "tekken": lambda t: _byte_level(t, _split("Tekken")),
    "clip": lambda t: _byte_level(t, _split("CLIP", inverted=True), normalizers.Sequence(_CLIP)),
    "starcoder": lambda t: _byte_level(
        t,
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    ),
    "unigram": lambda t: _sentencepiece(t, "unigram", _metaspace("always")),
    "unigram first": lambda t: _sentencepiece(t, "unigram", _metaspace("first")),
    "unigram never": lambda t: _sentencepiece(t, "unigram", _metaspace("never")),
    "t5": lambda t: _sentencepiece(t, "unigram", _after_whitespace("always")),
    "xlnet": lambda t: _sentencepiece(
        t, "unigram", _after_whitespace("first"), normalizers.Sequence(_SPM_LIKE)
    ),
    "albert": lambda t: _sentencepiece(
        t, "unigram", _after_whitespace("always"), normalizers.Sequence(_SPM_LIKE)
    ),
    "deberta v2": lambda t: _sentencepiece(
        t,
        "unigram",
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation("isolated"), _metaspace("always")]),
        normalizers.Sequence(_DEBERTA),
    ),
    "bpe metaspace": lambda t: _sentencepiece(t, "bpe", _metaspace("always")),
    "llama": lambda t: _unsplit(t, pre=_metaspace("first", split=False)),
    "llama legacy": lambda t: _unsplit(t, normalizer=_PREPENDED),
    "gemma": lambda t: _unsplit(
        t, normalizer=_MARKED, pre=pre_tokenizers.Split(" ", "merged_with_previous")
    ),
    "whitespace": lambda t: _sentencepiece(
        t, "bpe", pre_tokenizers.Whitespace(), normalizers.Sequence([normalizers.NFKC()])
    ),
}


@cache
def build(name: str) -> Any:
    """The tokenizer of a kind, trained once."""
    return BUILD[name](TEXTS * 3)


@cache
def build_with_visible_edges(name: str) -> Any:
    """The same normalizer and pre-tokenizer before a model that shows where each piece begins.

    Its tokens are single characters, ``##`` before all but the first of a piece; a trained
    vocabulary would hide many a wrong cut behind merges it does not have.
    """
    inner = Tokenizer.from_str(build(name).backend_tokenizer.to_str())
    letters = {*"".join(TEXTS), *"".join(FRAGMENTS), "\u2581", *pre_tokenizers.ByteLevel.alphabet()}
    names = [token.content for token in inner.get_added_tokens_decoder().values()]
    words = [
        *dict.fromkeys([*names, "<none>"]),
        *sorted(letters),
        *(f"##{x}" for x in sorted(letters)),
    ]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    inner.model = models.WordPiece(
        vocabulary, unk_token="<none>", max_input_chars_per_word=1_000_000
    )
    inner.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return _fast(inner)
