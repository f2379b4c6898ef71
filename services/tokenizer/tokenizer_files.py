"""The tokenizer's files of a checkpoint folder, read once at start.

tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat templates, in whatever
of their forms a checkpoint has them. Knows no message and encodes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerFilesError(ValueError):
    """A folder's tokenizer cannot be used, with a sentence for the operator."""


class TokenizerFiles(msgspec.Struct, frozen=True):
    """Where tokenizer.json and tokenizer_config.json differ (add_bos_token), the former counts, as in transformers."""

    backend: Tokenizer
    named_tokens: dict[str, Any]
    """bos_token, eos_token ... as chat templates see them."""
    chat_templates: dict[str, str]
    """By name; the usual one is "default". Empty if there is none."""
    path: Path | None = None
    """Of tokenizer.json; None for a tokenizer that was converted from other files."""


def read_tokenizer_files(folder: Path, chat_template_file: str | None = None) -> TokenizerFiles:
    """Raises TokenizerFilesError. A given template file replaces all of the checkpoint's."""
    config = _read_json(folder / "tokenizer_config.json")
    tokens_map = _read_json(folder / "special_tokens_map.json")
    if chat_template_file is not None:
        templates = {"default": _read_text(Path(chat_template_file))}
    else:
        templates = _chat_templates(folder, config)
    path = folder / "tokenizer.json"
    named_tokens = _named_tokens({**tokens_map, **config})
    return TokenizerFiles(_read_backend(folder), named_tokens, templates, path if path.is_file() else None)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TokenizerFilesError(f"{path} is not a readable JSON object") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise TokenizerFilesError(f"the chat template {path} cannot be read as text") from None


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """chat_template.jinja before tokenizer_config.json before chat_template.json; named ones beside."""
    templates: dict[str, str] = {}
    for source in (_read_json(folder / "chat_template.json"), config):
        given = source.get("chat_template")
        if isinstance(given, str):
            templates["default"] = given
        elif isinstance(given, dict):
            templates |= {str(name): str(text) for name, text in given.items()}
        elif isinstance(given, list):
            templates |= _named_templates(given)
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read_text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = _read_text(path)
    if templates and "default" not in templates:
        templates["default"] = next(iter(templates.values()))
    return templates


def _named_templates(given: list[Any]) -> dict[str, str]:
    """Of the form [{"name": ..., "template": ...}]."""
    pairs = [(entry.get("name"), entry.get("template")) for entry in given if isinstance(entry, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _content(entry: Any) -> str | None:
    """A token written as a string or as {"content": ...}."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _named_tokens(config: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {name: text for name in _NAMED_TOKENS if (text := _content(config.get(name))) is not None}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    if isinstance(extra, dict):
        named |= {name: text for name, entry in extra.items() if (text := _content(entry)) is not None}
    elif isinstance(extra, list):
        named["additional_special_tokens"] = [text for entry in extra if (text := _content(entry)) is not None]
    return named


def _read_backend(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _converted(folder)
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises a bare Exception for whatever is wrong with the file
        raise TokenizerFilesError(f"{path} is not a tokenizer that can be read") from None


def _converted(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint without tokenizer.json, by transformers: slow, so only then."""
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return loaded.backend_tokenizer  # type: ignore[union-attr]
    except Exception:
        raise TokenizerFilesError(
            f"{folder} has no tokenizer.json, and none could be made from its other files"
            " (that needs the transformers package and a tokenizer it can convert); --tokenizer names another folder"
        ) from None
