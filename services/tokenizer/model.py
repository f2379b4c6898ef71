"""The model as this service knows it: tokenizer, chat template, names and sampling defaults.

Loaded once at start, off the event loop. Knows no weights; lengths come with the engine's card.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import jinja2
import msgspec

from quire.shared.config import TokenizerConfig
from quire.shared.flags import fields
from quire.shared.messages import GenerationDefaults, ModelCard, Program, ReasoningIds
from quire.shared.model_files import DEMO_MODEL, DEMO_NAME, find_model, read_generation_config, read_model_config
from quire.shared.output_formats import REASONING_FORMATS, reasoning_format_of, tool_format_of

from .chat_template import ChatTemplate
from .constraints import Constraints, max_bytes
from .special_text import SpecialText
from .tokenizer import Rendered, TextTokenizer
from .tokenizer_files import TokenizerFiles, TokenizerFilesError, read_tokenizer_files
from .untrusted import Untrusted
from .validation import Limits


class Model(msgspec.Struct, frozen=True):
    names: list[str]
    root: str
    created: int
    tokenizer: TextTokenizer
    template: ChatTemplate
    defaults: GenerationDefaults
    tool_format: str = ""
    reasoning_format: str = ""
    """Names in shared/output_formats.py; "" for none."""
    reasoning_ids: ReasoningIds = ReasoningIds()
    constraints: Constraints | None = None
    flags: dict[str, int | float] = {}
    """Those that bound what a request may do here."""

    def card(self, engine_card: ModelCard) -> ModelCard:
        """What frontends are told: the engine's numbers under our names."""
        return msgspec.structs.replace(
            engine_card,
            names=self.names,
            root=self.root,
            created=self.created,
            has_chat_template=self.template.is_there,
            defaults=self.defaults,
            tool_format=self.tool_format,
            reasoning_format=self.reasoning_format,
            reasoning_ids=self.reasoning_ids,
            limits=self.flags,
            max_chars_per_token=self.tokenizer.max_chars_per_token,
        )

    def limits(self, engine_card: ModelCard) -> Limits:
        return Limits(
            max_model_len=engine_card.max_model_len,
            vocab_size=engine_card.vocab_size,
            default_max_tokens=self.defaults.max_tokens,
            max_chars_per_token=self.tokenizer.max_chars_per_token,
        )


def load_model(config: TokenizerConfig) -> Model:
    """Raises ModelFilesError or TokenizerFilesError, each with a sentence."""
    folder = find_model(config.model, has_weights=False)
    vocab_size = read_model_config(folder).vocab_size
    files = read_tokenizer_files(_tokenizer_folder(config.tokenizer) or folder, config.chat_template)
    tokenizer = TextTokenizer(files)
    tokenizer.texts.grow(vocab_size)
    where = config.chat_template or str(folder)
    untrusted = Untrusted(config.helper_timeout, config.helper_memory, config.max_rendered_size)
    if folder != DEMO_MODEL or config.chat_template:
        _try_templates(files, untrusted, where)
    template = compile_templates(files, tokenizer.special_text, where, untrusted)
    defaults = GenerationDefaults()
    if config.generation_config == "auto":
        given = read_generation_config(folder)
        defaults = GenerationDefaults(
            given.temperature,
            given.top_p,
            given.top_k,
            given.min_p,
            given.repetition_penalty,
            given.max_new_tokens,
        )
    root = config.model or DEMO_NAME
    names = list(config.served_model_name) or [_name(root)]
    tool_format, reasoning_format = _output_formats(config, "\n".join(files.chat_templates.values()))
    marks = reasoning_ids(tokenizer, reasoning_format)
    most = max_bytes(config.max_schema_size, config.max_regex_size)
    constraints = Constraints(tokenizer.special_token_ids, untrusted, most)
    return Model(
        names, root, int(time.time()), tokenizer, template, defaults,
        tool_format, reasoning_format, marks, constraints,
        _limits_of(config),
    )  # fmt: skip


def _limits_of(config: TokenizerConfig) -> dict[str, int | float]:
    """The flags that bound something, by name."""
    return {name: getattr(config, name) for name, one in fields(TokenizerConfig).items() if one.flag.group == "limits"}


def reasoning_ids(tokenizer: TextTokenizer, reasoning_format: str) -> ReasoningIds:
    """Of the format's markers, as far as each end is one token."""
    reasoning = REASONING_FORMATS.get(reasoning_format)
    if reasoning is None:
        return ReasoningIds()
    opening = [reasoning.opening] if reasoning.opening else []
    closings = [*reasoning.closings, *([reasoning.end] if reasoning.end else [])]
    ids = tokenizer.encode_rendered([Rendered(text) for text in (*opening, *closings)], False)
    ends = [one[0] for one in ids[len(opening) :] if len(one) == 1]
    return ReasoningIds(ids[0] if opening else [], ends)


def _output_formats(config: TokenizerConfig, templates: str) -> tuple[str, str]:
    """Of tool calls and of reasoning, as the settings or the templates say."""
    tools = {"auto": tool_format_of(templates), "none": ""}.get(config.tool_parser, config.tool_parser)
    found = {"auto": reasoning_format_of(templates), "none": ""}
    return tools, found.get(config.reasoning_parser, config.reasoning_parser)


def _tokenizer_folder(tokenizer: str | None) -> Path | None:
    if tokenizer is None:
        return None
    return DEMO_MODEL if tokenizer == DEMO_NAME else find_model(tokenizer, has_weights=False)


def compile_templates(
    files: TokenizerFiles, special_text: SpecialText, where: str, untrusted: Untrusted | None = None
) -> ChatTemplate:
    """Raises TokenizerFilesError for a template that is not Jinja; `where` is what it came from."""
    try:
        return ChatTemplate(files.chat_templates, files.named_tokens, special_text, untrusted)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerFilesError(f"the chat template of {where} is not valid Jinja (line {error.lineno})") from None
    except RecursionError:
        raise TokenizerFilesError(f"the chat template of {where} is nested too deeply") from None


def _try_templates(files: TokenizerFiles, untrusted: Untrusted, where: str) -> None:
    """Render each once in the helper, before one is run here: a template comes from whoever made the checkpoint.

    Raises TokenizerFilesError for one that takes for ever or all memory; a template may refuse this chat.
    """
    variables = {**files.named_tokens, "messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True}
    for source in files.chat_templates.values():
        outcome = untrusted.run(Program("template", source, msgspec.json.encode(variables)))
        if outcome.result in ("time", "memory", "lost"):
            untrusted.close()
            raise TokenizerFilesError(f"the chat template of {where} cannot be used: {outcome.text} for one message")
    untrusted.close()  # it starts again when a request needs it


def _name(model: str) -> str:
    """A folder by its last part, a hub id as it is."""
    return os.path.basename(os.path.normpath(model)) if os.path.isdir(model) else model
