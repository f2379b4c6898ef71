"""Random checkpoints of known dimensions, the same everywhere: what speed is measured on.

`python bench/checkpoints.py A /tmp/quire-a` writes a Hugging Face folder: config, safetensors in bf16, and
a byte-level BPE tokenizer that is constructed, not trained. Weights depend on tensor names alone. Of a name in
dimensions/ no weights are written: serve it with --load-format dummy.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import torch

VOCAB_SIZE = 32_768
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The splitting rule of Qwen's tokenizers (tokenizer.json of Qwen/Qwen3-0.6B)."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Dimensions(Struct, frozen=True):
    """A decoder of the Llama kind, embeddings tied. `has_head_norms`: Qwen3's norms of q and k."""

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    has_head_norms: bool
    rope_theta: float
    vocab_size: int = VOCAB_SIZE
    max_model_len: int = 40_960


CHECKPOINTS = {
    "A": Dimensions("qwen3", 1024, 28, 16, 8, 128, 3072, has_head_norms=True, rope_theta=1e6),
    "B": Dimensions("llama", 768, 12, 12, 4, 64, 2048, has_head_norms=False, rope_theta=1e4),
    "tiny": Dimensions("qwen3", 64, 2, 4, 2, 16, 128, has_head_norms=True, rope_theta=1e6),
}

DIMENSIONS = Path(__file__).resolve().parent / "dimensions"
"""A folder with the config.json of each published model; see its model card."""


def dimension_names() -> list[str]:
    return sorted(file.parent.name for file in DIMENSIONS.glob("*/config.json"))


def shapes(of: Dimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor by its Hugging Face name."""
    hidden, q, kv = of.hidden_size, of.num_heads * of.head_dim, of.num_kv_heads * of.head_dim
    yield "model.embed_tokens.weight", (of.vocab_size, hidden)
    for number in range(of.num_layers):
        layer = f"model.layers.{number}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attn.q_proj.weight", (q, hidden)
        yield layer + "self_attn.k_proj.weight", (kv, hidden)
        yield layer + "self_attn.v_proj.weight", (kv, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, q)
        if of.has_head_norms:
            yield layer + "self_attn.q_norm.weight", (of.head_dim,)
            yield layer + "self_attn.k_norm.weight", (of.head_dim,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.gate_proj.weight", (of.intermediate_size, hidden)
        yield layer + "mlp.up_proj.weight", (of.intermediate_size, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, of.intermediate_size)
    yield "model.norm.weight", (hidden,)


def weights(of: Dimensions) -> dict[str, torch.Tensor]:
    """bf16, normal with deviation 0.02; norms are ones. The seed of a tensor is the CRC of its name."""
    import torch

    made = {}
    for name, shape in shapes(of):
        if len(shape) == 1:
            made[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            made[name] = torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)
    return made


def config(of: Dimensions) -> dict[str, Any]:
    """config.json, but for special tokens."""
    return {
        "architectures": [{"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[of.family]],
        "model_type": of.family,
        "vocab_size": of.vocab_size,
        "hidden_size": of.hidden_size,
        "num_hidden_layers": of.num_layers,
        "num_attention_heads": of.num_heads,
        "num_key_value_heads": of.num_kv_heads,
        "head_dim": of.head_dim,
        "intermediate_size": of.intermediate_size,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": of.rope_theta,
        "max_position_embeddings": of.max_model_len,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte (GPT-2, Radford et al. 2019: encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    written = {byte: chr(byte) for byte in plain} | {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [written[byte] for byte in range(256)]


def merges(count: int) -> list[tuple[str, str]]:
    """`count` rules: space + letter, pairs of letters, space + three letters, then four letters."""
    letters, space = "etaoinshrdlcumwfgypbvkjxqz", byte_letters()[32]
    pairs = [first + second for first in letters for second in letters]
    made = [(space, letter) for letter in letters]
    made += [(pair[0], pair[1]) for pair in pairs]
    made += [(space + letter, pair) for pair in pairs for letter in letters]
    made += [(first, second) for first in pairs for second in pairs]
    return made[:count]


def tokenizer(vocab_size: int = VOCAB_SIZE) -> dict[str, Any]:
    """tokenizer.json: specials, then the bytes, then what the merges make."""
    letters = byte_letters()
    rules = merges(vocab_size - len(SPECIALS) - len(letters))
    tokens = [*SPECIALS, *letters, *(first + second for first, second in rules)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": content, **flags} for index, content in enumerate(SPECIALS)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "post_processor": None,
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [list(rule) for rule in rules],
        },
    }


def write_without_weights(config: dict[str, Any], folder: Path) -> None:
    """config.json and a tokenizer of its vocabulary. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    stop, padding = SPECIALS.index("<|im_end|>"), SPECIALS.index("<|endoftext|>")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    files = {
        "config.json": {**config, "bos_token_id": None, "eos_token_id": stop, "pad_token_id": padding},
        "generation_config.json": {"eos_token_id": stop, "do_sample": False},
        "tokenizer.json": tokenizer(config["vocab_size"]),
        "tokenizer_config.json": settings,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write(of: Dimensions, folder: Path) -> None:
    """A whole checkpoint. Raises OSError."""
    from safetensors.torch import save_file

    write_without_weights(config(of), folder)
    save_file(weights(of), str(folder / "model.safetensors"), metadata={"format": "pt"})


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="checkpoints.py", description="Write a random checkpoint of known dimensions.")
    made.add_argument("checkpoint", choices=[*sorted(CHECKPOINTS), *dimension_names()])
    made.add_argument("folder", type=Path)
    options = made.parse_args(argv)
    if options.checkpoint not in CHECKPOINTS:
        source = DIMENSIONS / options.checkpoint / "config.json"
        write_without_weights(json.loads(source.read_text(encoding="utf-8")), options.folder)
        print(f"{options.checkpoint}: no weights in {options.folder}; serve it with --load-format dummy")
        return 0
    of = CHECKPOINTS[options.checkpoint]
    write(of, options.folder)
    count = sum(math.prod(shape) for _, shape in shapes(of))
    print(f"checkpoint {options.checkpoint}: {count / 1e6:.0f} M parameters in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
