"""Tiny models of every family with seeded random weights, and a tokenizer: no downloads."""

import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

VOCAB = 200
HIDDEN = 32
LAYERS = 4

_BERT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 2 * HIDDEN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "pad_token_id": 0}
_OPT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "ffn_dim": 2 * HIDDEN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}
_GEMMA = {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}

#: name -> (model_type, arguments of its config)
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "roberta": ("roberta", {**_BERT, "max_position_embeddings": 66, "pad_token_id": 1}),
    "electra": ("electra", {**_BERT, "embedding_size": 16}),
    "distilbert": (
        "distilbert",
        {
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": 4,
            "hidden_dim": 2 * HIDDEN,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
        },
    ),
    "albert": ("albert", {**_BERT, "embedding_size": 16}),
    "gpt2": (
        "gpt2",
        {
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": 4,
            "vocab_size": VOCAB,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "opt": ("opt", {**_OPT, "word_embed_proj_dim": HIDDEN}),
    "opt-post": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt_neox": ("gpt_neox", {**_BERT, "bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("llama", _LLAMA),
    "deberta-v2": (
        "deberta-v2",
        {
            **_BERT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
        },
    ),
    "xlnet": (
        "xlnet",
        {
            "d_model": HIDDEN,
            "n_layer": LAYERS,
            "n_head": 4,
            "d_inner": 2 * HIDDEN,
            "vocab_size": VOCAB,
        },
    ),
    "bart": (
        "bart",
        {
            "d_model": HIDDEN,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS - 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * HIDDEN,
            "decoder_ffn_dim": 2 * HIDDEN,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
        },
    ),
    "t5": (
        "t5",
        {
            "d_model": HIDDEN,
            "num_layers": LAYERS,
            "num_heads": 4,
            "d_kv": 8,
            "d_ff": 64,
            "vocab_size": VOCAB,
        },
    ),
    "modernbert": (
        "modernbert",
        {
            **_BERT,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "local_attention": 8,
        },
    ),
    "gemma2": ("gemma2", _GEMMA),
    "gpt_oss": (
        "gpt_oss",
        {
            **_LLAMA,
            "head_dim": 8,
            "sliding_window": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
        },
    ),
    "olmo2": ("olmo2", _LLAMA),
    "olmo": ("olmo", _LLAMA),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 16}),
    "qwen2": ("qwen2", _LLAMA),
    "bloom": (
        "bloom",
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCAB},
    ),
    "phi": ("phi", _BERT),
    "vit": (
        "vit",
        {k: v for k, v in _BERT.items() if "vocab" not in k} | {"image_size": 16, "patch_size": 8},
    ),
}

#: Families that outdim promises to resolve.
FAMILIES = (
    "bert",
    "roberta",
    "electra",
    "distilbert",
    "albert",
    "gpt2",
    "opt",
    "opt-post",
    "gpt_neox",
    "llama",
)
#: Others that it resolves as well (BART and T5 by their encoder and decoder).
STRANGERS = tuple(name for name in _CONFIGS if name not in FAMILIES)

#: Those without a separate encoder and decoder, and the head by which each gives logits.
SINGLE = tuple(name for name in _CONFIGS if name not in ("bart", "t5"))
_MASKED = ("bert", "roberta", "electra", "distilbert", "albert", "deberta-v2", "modernbert")
HEADS = {name: "MaskedLM" if name in _MASKED else "CausalLM" for name in SINGLE}
HEADS |= {"xlnet": "SequenceClassification", "vit": "ImageClassification"}


def tiny_model(
    family: str,
    *,
    head: str = "",
    seed: int = 0,
    outliers: Sequence[int] = (),
    **overrides: Any,
) -> Any:
    """A model of `family` (in FAMILIES or STRANGERS) in eval mode, D = 32, 4 layers, V = 200.

    head: "" for the base model, or "MaskedLM", "CausalLM", ... for AutoModelFor<head>.
    outliers: dimensions at which gamma and beta of every norm are 30 standard deviations away.
    overrides: more arguments of the config.
    """
    import transformers

    model_type, arguments = _CONFIGS[family]
    config = transformers.AutoConfig.for_model(model_type, **{**arguments, **overrides})
    auto = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config).eval()
    _randomise(model, seed)
    for dim in outliers:
        plant_outlier(model, dim)
    return model


def plain_model(*, outliers: Sequence[int] = (), hidden_size: int = 128) -> Any:
    """A BERT whose hidden states are those of its words, independent and normal, through norms.

    Blocks and positions add next to nothing, so that tokens are as different as random vectors.
    """
    model = tiny_model("bert", hidden_size=hidden_size)
    for name, parameter in model.named_parameters():
        if _is_norm(name, parameter):
            parameter.data = torch.full_like(parameter, float(name.endswith("weight")))
        elif "word_embeddings" not in name:
            parameter.data *= 0.01
    for dim in outliers:
        plant_outlier(model, dim)
    return model


def plant_outlier(model: nn.Module, dim: int) -> None:
    """Set gamma and beta of `dim` 30 standard deviations apart in every norm that is so wide."""
    for name, parameter in model.named_parameters():
        if _is_norm(name, parameter) and parameter.shape[0] > dim:
            parameter.data[dim] = 2.5 if name.endswith("weight") else -1.5


def _randomise(model: nn.Module, seed: int) -> None:
    """Give every tensor a spread one can see: fresh models have gamma 1, beta 0 and tiny weights.

    Each tensor draws by its own name: a model and the same one with a head share their weights.
    """
    prefix = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(
            seed * 1000 + zlib.crc32(name.removeprefix(prefix).encode())
        )
        noise = torch.randn(parameter.shape, generator=generator)
        if _is_norm(name, parameter):
            parameter.data = (1.0 if name.endswith("weight") else 0.0) + 0.05 * noise
        else:
            parameter.data = 0.15 * noise


def _is_norm(name: str, parameter: torch.Tensor) -> bool:
    parent = name.split(".")[-2].lower() if "." in name else ""
    return parameter.dim() == 1 and ("norm" in parent or parent.startswith("ln_"))


def tiny_inputs(
    model: Any, batch: int = 3, length: int = 7, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Random ordinary ids [B, S] with a mask that pads the end of the last one, or pixels."""
    generator = torch.Generator().manual_seed(seed)
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        size = model.config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    return {
        "input_ids": torch.randint(5, VOCAB, (batch, length), generator=generator),
        "attention_mask": mask,
    }


def tiny_texts(documents: int, longest: int) -> list[str]:
    """Words of the tokenizer below, some of them far more frequent than others."""
    rng = random.Random(0)
    words = [f"w{min(int(rng.paretovariate(0.9)), 90)}" for _ in range(400)]
    return [" ".join(rng.sample(words, rng.randint(2, longest))) for _ in range(documents)]


def tiny_tokenizer(vocab_size: int = VOCAB, *, model_max_length: int = 64) -> Any:
    """A fast WordPiece tokenizer in the manner of BERT with exactly `vocab_size` entries.

    Ids 0 to 4 are [PAD], [UNK], [CLS], [SEP], [MASK]; then come letters and digits alone and as
    continuations (`##a`) and signs, so that any ASCII text is covered, and then the words `w0`,
    `w1`, ...
    """
    import string

    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    words = [*special, *letters, *(f"##{letter}" for letter in letters), *string.punctuation]
    words += [f"w{i}" for i in range(vocab_size - len(words))]
    if len(words) != vocab_size:
        raise ValueError(f"vocab_size: expected at least {len(words)}, got {vocab_size}")
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=model_max_length,
    )
