"""Everything of ours that reads bytes from outside, and the only errors each may answer with.

`fuzz(target, cases, seed)` feeds one of TARGETS; scripts/fuzz runs all of them for long, test_decoders.py briefly.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from quire.services.engine.submission import refusal
from quire.services.frontend.authentication import Keys
from quire.services.frontend.chat_protocol import parse_chat
from quire.services.frontend.completion_protocol import parse_completion
from quire.services.tokenizer.model import compile_templates
from quire.services.tokenizer.preparation import Job, Preparation
from quire.services.tokenizer.special_text import SpecialText
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import TokenizerFilesError, read_tokenizer_files
from quire.services.tokenizer.validation import Limits
from quire.shared import messages
from quire.shared.config import FrontendConfig, all_fields
from quire.shared.config_file import read as read_config_file
from quire.shared.errors import ApiError
from quire.shared.flags import fields, from_environment, parser_of
from quire.shared.link import Keys as LinkKeys
from quire.shared.model_files import (
    DEMO_MODEL,
    ModelFilesError,
    read_generation_config,
    read_model_config,
    read_weight_entries,
)

from .mutation import JSON_BITS, MSGPACK_BITS, TEXT_BITS, mutate, value_of

DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What shared/link.py drops a message for."""


class Target(NamedTuple):
    feed: Callable[[bytes], object]
    errors: tuple[type[BaseException], ...]
    """The declared ones."""
    seeds: list[bytes]
    bits: list[bytes]
    cost: int = 1
    """How many times fewer cases it gets in the short form."""


class UndeclaredError(AssertionError):
    """A decoder failed in a way that nobody catches."""


def fuzz(name: str, cases: int, seed: int = 0, is_long: bool = False) -> int:
    """Feed a target; the number of inputs that it took. Raises UndeclaredError with the input."""
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # ten times as fast as a disk
    with tempfile.TemporaryDirectory(prefix="quire-fuzz-", dir=shared_memory) as folder:
        return _fuzz(TARGETS[name](Path(folder)), name, cases, seed, is_long)


def _fuzz(target: Target, name: str, cases: int, seed: int, is_long: bool) -> int:
    random_ = random.Random(f"{name}-{seed}")
    taken = 0
    for number in range(cases if is_long else max(1, cases // target.cost)):
        data = random_.choice(target.seeds)
        if number >= len(target.seeds):
            data = mutate(random_, data, random_.choice(target.seeds), target.bits)
        else:
            data = target.seeds[number]
        try:
            target.feed(data)
            taken += 1
        except target.errors:
            continue
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UndeclaredError(f"{name} (seed {seed}, case {number}): {error!r} for {data!r}") from error
    return taken


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _body(parse_body: Callable[[bytes], object], *seeds: dict[str, Any]) -> Target:
    def feed(data: bytes) -> None:
        try:
            parse_body(data)
        except ApiError as error:
            if error.status != 400:
                raise AssertionError(error.status) from error
            raise

    return Target(feed, (ApiError,), _json(*seeds), JSON_BITS)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _chat(folder: Path) -> Target:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": []}]
    return _body(
        parse_chat,
        {"messages": talk, "temperature": 0.5, "stop": ["a"], "logit_bias": {"5": 1}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "é"}]}], "tools": [TOOL], "stream": True},
        {"messages": talk, "chat_template_kwargs": {"a": [1, {"b": None}]}, "n": 3, "seed": -5, "metadata": {"a": "b"}},
    )


def _completion(folder: Path) -> Target:
    seeds = [{"prompt": prompt, "max_tokens": 5} for prompt in ("x", ["x", "y"], [1, 2, 3], [[1], [2, 3]])]
    return _body(parse_completion, *seeds, {"prompt": "x", "echo": True, "logprobs": 3, "stop": "a", "user": "u"})


UNIONS: dict[str, Any] = {
    name: getattr(messages, name)
    for name in (
        "ToTokenizer", "ToEngine", "ToWorker", "FromWorker", "ToTokenizerFromEngine", "ToFrontend", "ToLauncher",
        "FromLauncher", "ToFrontendFromOperator", "Program", "Outcome",
    )
}  # fmt: skip


def _union(name: str, folder: Path) -> Target:
    random_ = random.Random(name)
    seeds = [msgspec.msgpack.encode(value_of(UNIONS[name], random_)) for _ in range(60)]
    return Target(msgspec.msgpack.Decoder(UNIONS[name]).decode, DECODING_ERRORS, seeds, MSGPACK_BITS)


class _OneReplica:
    """As much of a scheduler as the engine's look at a Submit reads."""

    class limits:
        max_model_len = 4096

    num_open_choices = 0


def _submit(folder: Path) -> Target:
    """A Submit that decodes, and the look at it that must find what could hurt."""
    random_ = random.Random("submit")
    seeds = [msgspec.msgpack.encode(value_of(messages.Submit, random_)) for _ in range(60)]
    decoder = msgspec.msgpack.Decoder(messages.Submit)

    def feed(data: bytes) -> None:
        refusal(decoder.decode(data), _OneReplica(), 2048, 64)  # type: ignore[arg-type]

    return Target(feed, DECODING_ERRORS, seeds, MSGPACK_BITS)


@functools.cache
def _preparation() -> Preparation:
    files = read_tokenizer_files(DEMO_MODEL)
    tokenizer = TextTokenizer(files)
    return Preparation(tokenizer, compile_templates(files, tokenizer.special_text, "the demo model"))


def _generate(folder: Path) -> Target:
    """A Generate that decodes, and all that the tokenizer does with it."""
    random_ = random.Random("generate")
    seeds = [msgspec.msgpack.encode(value_of(messages.Generate, random_)) for _ in range(60)]
    decoder = msgspec.msgpack.Decoder(messages.Generate)
    preparation = _preparation()

    def feed(data: bytes) -> None:
        generate = decoder.decode(data)
        prompt = generate.prompt
        if isinstance(prompt, messages.ChatPrompt):
            prompt = msgspec.structs.replace(prompt, chat_template="", template_kwargs_json=b"")
        (outcome,) = preparation.prepare([Job(msgspec.structs.replace(generate, prompt=prompt), Limits(512, 2048))])
        if isinstance(outcome, messages.Refused) and outcome.status >= 500:
            raise AssertionError(outcome.message)

    return Target(feed, DECODING_ERRORS, seeds, MSGPACK_BITS, cost=4)


def _in_folder(
    folder: Path, name: str, read: Callable[[Path], object], fixed: dict[str, bytes] | None = None
) -> Callable[[bytes], None]:
    """A feed that writes the data to the file `name` of a folder, and has the folder read."""
    for other, content in (fixed or {}).items():
        (folder / other).write_bytes(content)

    def feed(data: bytes) -> None:
        (folder / name).write_bytes(data)
        read(folder)

    return feed


def _safetensors(folder: Path) -> Target:
    def file(header: object, size: int) -> bytes:
        head = json.dumps(header).encode()
        return struct.pack("<Q", len(head)) + head + bytes(size)

    one = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    two = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
    seeds = [file({"a": one, "b": two, "__metadata__": {"format": "pt"}}, 32), file({"a": one}, 24), file({}, 0)]
    return Target(_in_folder(folder, "model.safetensors", read_weight_entries), (ModelFilesError,), seeds, JSON_BITS)


def _index(folder: Path) -> Target:
    empty = struct.pack("<Q", 2) + b"{}"
    feed = _in_folder(folder, "model.safetensors.index.json", read_weight_entries, {"x": empty, "y.safetensors": empty})
    return Target(
        feed,
        (ModelFilesError,),
        _json({"weight_map": {"a": "x", "b": "y.safetensors"}}, {"weight_map": {"b": "../y"}}),
        JSON_BITS,
    )


def _config(folder: Path) -> Target:
    whole = json.loads((DEMO_MODEL / "config.json").read_bytes())
    rope = {**whole, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
    windows = {**whole, "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 5}
    feed = _in_folder(folder, "config.json", read_model_config)
    return Target(feed, (ModelFilesError,), _json(whole, rope, windows), JSON_BITS)


def _generation_config(folder: Path) -> Target:
    feed = _in_folder(folder, "generation_config.json", read_generation_config)
    return Target(feed, (ModelFilesError,), [(DEMO_MODEL / "generation_config.json").read_bytes()], JSON_BITS)


def _tiny_tokenizer() -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<s>": 3}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer.to_str().encode()


def _tokenizer(folder: Path) -> Target:
    def read(folder: Path) -> None:
        TextTokenizer(read_tokenizer_files(folder)).encode_texts(["ab <s> é"], True)

    feed = _in_folder(folder, "tokenizer.json", read)
    return Target(feed, (TokenizerFilesError,), [_tiny_tokenizer()], JSON_BITS, cost=2)


def _tokenizer_config(folder: Path) -> Target:
    whole = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": [{"name": "default", "template": "{{ 1 }}"}],
        "extra_special_tokens": {"x": "y"},
        "additional_special_tokens": ["a", {"content": "b"}],
    }
    feed = _in_folder(folder, "tokenizer_config.json", read_tokenizer_files, {"tokenizer.json": _tiny_tokenizer()})
    seeds = _json(whole, {"chat_template": {"a": "b"}}, {"chat_template": "{{ x }}"})
    return Target(feed, (TokenizerFilesError,), seeds, JSON_BITS, cost=2)


def _template(folder: Path) -> Target:
    def read(folder: Path) -> None:
        files = read_tokenizer_files(folder)
        compile_templates(files, SpecialText([]), "the checkpoint")

    feed = _in_folder(folder, "chat_template.jinja", read, {"tokenizer.json": _tiny_tokenizer()})
    config = json.loads((DEMO_MODEL / "tokenizer_config.json").read_bytes())
    seeds = [str(config["chat_template"]).encode(), b"{% for m in messages %}{{ m.content | tojson }}{% endfor %}"]
    return Target(feed, (TokenizerFilesError,), seeds, TEXT_BITS, cost=8)


def _key_file(folder: Path) -> Target:
    def read(folder: Path) -> None:
        keys = Keys.of(FrontendConfig(api_key_file=str(folder / "keys")))
        with contextlib.suppress(ApiError):
            keys.check("/v1/models", b"Bearer sesame")

    return Target(_in_folder(folder, "keys", read), (ValueError,), [b"# keys\nsesame\n\nother\n"], TEXT_BITS)


def _link_keys(folder: Path) -> Target:
    def read(folder: Path) -> None:
        (folder / "link").chmod(0o600)
        LinkKeys.load(folder / "link")

    seeds = _json({"public": "x" * 40, "secret": "y" * 40})
    return Target(_in_folder(folder, "link", read), (ValueError,), seeds, JSON_BITS)


def _config_file(folder: Path) -> Target:
    known = fields(FrontendConfig)
    everything = {**all_fields(), **known}

    def read(folder: Path) -> None:
        read_config_file(str(folder / "quire.toml"), known, everything)

    seeds = [b'port = 8000\nmax-body-size = "8MiB"\napi-key = ["a", "b"]\n', b'host = "x"\n[a]\nb = 1\nresume = true\n']
    return Target(_in_folder(folder, "quire.toml", read), (ValueError,), seeds, TEXT_BITS, cost=2)


def _flags(folder: Path) -> Target:
    parse = parser_of(FrontendConfig)

    def feed(data: bytes) -> None:
        argv = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\n")]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parse(argv)

    seeds = [b"--port\n80\n--max-body-size\n8MiB\n--no-resume", b"--stall-limit\n1.5\n--api-key\nx\n--api-key\ny"]
    return Target(feed, (SystemExit,), seeds, TEXT_BITS, cost=16)


def _variables(folder: Path) -> Target:
    known = list(fields(FrontendConfig).values())

    def feed(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        from_environment(known, {field.variable: text for field in known[::7]} | {"QUIRE_PORT": text})

    return Target(feed, (ValueError,), [b"80", b"8MiB", b"true", b"1.5", b"a,b"], TEXT_BITS)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "chat": _chat,
    "completion": _completion,
    **{name: functools.partial(_union, name) for name in UNIONS},
    "submit": _submit,
    "generate": _generate,
    "safetensors": _safetensors,
    "safetensors index": _index,
    "config.json": _config,
    "generation_config.json": _generation_config,
    "tokenizer.json": _tokenizer,
    "tokenizer_config.json": _tokenizer_config,
    "chat_template.jinja": _template,
    "API key file": _key_file,
    "link key file": _link_keys,
    "TOML file": _config_file,
    "flags": _flags,
    "variables": _variables,
}
