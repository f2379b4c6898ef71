"""What a request becomes before the engine sees it: its template rendered, its ids, its Submit.

Runs on an encoding thread (see encoding_lanes.py), several requests at once, and touches nothing
that the event loop uses. Knows no links; a request that is wrong ends here as a Refused.
"""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

import msgspec

from quire.shared.errors import INTERNAL_ERROR, INVALID_VALUE, UNSUPPORTED_PARAMETER, ApiError, refused
from quire.shared.messages import Accepted, ChatPrompt, Generate, Grammar, IdsPrompt, Refused, Submit, TextPrompt
from quire.shared.output_formats import REASONING_FORMATS, starts_in_reasoning

from .bad_words import BadIds, bad_ids, without_bad_words
from .chat_template import ChatRequest, ChatTemplate, needs_helper
from .choice_text import ChoiceText, PlainText, StoppableText, replay
from .constraints import Constraints
from .stop_strings import StopStrings
from .token_ids import pack_ids, unpack_ids
from .tokenizer import Rendered, TextTokenizer
from .untrusted import Untrusted
from .validation import Limits, check_ids_length, check_sampling, check_text_length, make_submit, unpack_prompt

logger = logging.getLogger("quire.tokenizer")


class Prepared(msgspec.Struct, frozen=True):
    """A request as the engine gets it, and what its answers need here."""

    submit: Submit
    choices: list[ChoiceText | None]
    """None for one that its history says is finished."""
    resumed_texts: list[str]
    """By choice: text of its history that the client does not have yet."""
    prompt_text: str
    """Empty unless asked for."""
    starts_in_reasoning: bool = False
    shown_ids: frozenset[int] = frozenset()
    """Special tokens that the text shows though it skips others."""


class Tokenized(msgspec.Struct, frozen=True):
    """What a request only wanted to know."""

    answer: Accepted


Outcome: TypeAlias = Prepared | Tokenized | Refused


class Job(msgspec.Struct):
    """One request on its way through an encoding thread."""

    generate: Generate
    limits: Limits
    received: float = 0.0
    """Monotonic seconds."""
    is_cancelled: bool = False
    """Set by the event loop when the client is gone."""
    grammar: Grammar | None = None
    """Of its constraint, once that is checked."""
    bad: BadIds | None = None


class Preparation:
    """Prepares requests of one checkpoint. Thread-safe."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: ChatTemplate | None,
        reasoning_format: str = "",
        constraints: Constraints | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._reasoning_format = reasoning_format
        self._template = template
        self._constraints = constraints or Constraints(tokenizer.special_token_ids, Untrusted())

    def needs_helper(self, generate: Generate) -> bool:
        """Whether what its client programmed is to be run or checked first, for up to some seconds."""
        constraint, prompt = generate.constraint, generate.prompt
        if constraint is not None and not self._constraints.is_known(constraint):
            return True
        return isinstance(prompt, ChatPrompt) and needs_helper(prompt)

    def prepare(self, jobs: list[Job]) -> list[Outcome]:
        """One outcome a job, in order; encodes what is alike in one call. Never raises."""
        outcomes: dict[int, Outcome] = {}
        encoded: dict[tuple[bool, bool], list[tuple[int, Any]]] = {}
        for index, job in enumerate(jobs):
            try:
                check_sampling(job.generate, job.limits)
                job.bad = self._bad_ids(job)
                if job.generate.constraint is not None:
                    job.grammar = self._constraints.grammar(job.generate.constraint)
                prompt, text = job.generate.prompt, job.generate.text
                is_bounded = text.truncate_prompt_tokens is None and not text.only_tokenizes
                if isinstance(prompt, IdsPrompt):
                    if is_bounded:
                        check_ids_length(prompt.token_ids, job.limits)
                    ids = unpack_prompt(prompt.token_ids, job.limits)
                    outcomes[index] = self._finish(job, ids, None)
                    continue
                source = self._render(prompt) if isinstance(prompt, ChatPrompt) else _text(prompt)
                if is_bounded:
                    check_text_length(source if isinstance(source, str) else source.text, job.limits)
                encoded.setdefault((isinstance(source, Rendered), prompt.add_special_tokens), []).append(
                    (index, source)
                )
            except Exception as error:
                outcomes[index] = _refusal(job, error)
        for (is_rendered, add_special_tokens), group in encoded.items():
            encode = self._tokenizer.encode_rendered if is_rendered else self._tokenizer.encode_texts
            sources = [source for _, source in group]
            try:
                all_ids = encode(sources, add_special_tokens)
            except Exception as error:
                outcomes |= {index: _refusal(jobs[index], error) for index, _ in group}
                continue
            for (index, source), ids in zip(group, all_ids, strict=True):
                try:
                    outcomes[index] = self._finish(jobs[index], ids, source)
                except Exception as error:
                    outcomes[index] = _refusal(jobs[index], error)
        return [outcomes[index] for index in range(len(jobs))]

    def _bad_ids(self, job: Job) -> BadIds | None:
        words, allowed = job.generate.text.bad_words, job.generate.sampling.allowed_token_ids
        return bad_ids(words, self._tokenizer.encode_texts, job.limits, allowed) if words else None

    def _render(self, prompt: ChatPrompt) -> Rendered:
        if self._template is None or not (self._template.is_there or prompt.chat_template):
            raise ApiError(
                UNSUPPORTED_PARAMETER,
                "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE",
                "messages",
            )
        return self._template.render(
            ChatRequest(
                messages=_json("messages", prompt.messages_json, list[dict[str, Any]]) or [],
                tools=_json("tools", prompt.tools_json, list[Any] | None),
                documents=_json("documents", prompt.documents_json, list[Any] | None),
                template_kwargs=_json("chat_template_kwargs", prompt.template_kwargs_json, dict[str, Any] | None) or {},
                add_generation_prompt=prompt.add_generation_prompt,
                continue_final_message=prompt.continue_final_message,
                chat_template=prompt.chat_template,
                is_untrusted=needs_helper(prompt),
            )
        )

    def _finish(self, job: Job, ids: list[int], source: str | Rendered | None) -> Prepared | Tokenized:
        generate = job.generate
        if generate.text.only_tokenizes:
            return self._tokenized(generate, ids)
        starts_inside = isinstance(source, Rendered) and starts_in_reasoning(source.text, self._reasoning_format)
        grammar = job.grammar
        if grammar is not None and starts_inside and not grammar.after:
            grammar = msgspec.structs.replace(grammar, after=REASONING_FORMATS[self._reasoning_format].end)
        submit = make_submit(generate, ids, job.limits, grammar)
        if job.bad is not None:
            submit = without_bad_words(submit, job.bad)
        stops = StopStrings(generate.text.stop)
        choices: list[ChoiceText | None] = []
        resumed_texts: list[str] = []
        for index in range(generate.n):
            choice: ChoiceText | None = self._choice(generate, stops)
            resumed = ""
            if generate.history:
                entry = generate.history[index]
                if entry.is_finished:
                    choice = None
                else:
                    resumed = replay(choice, unpack_ids(entry.output_ids), entry.sent_chars)
            choices.append(choice)
            resumed_texts.append(resumed)
        shown = self._tokenizer.special_tokens(generate.text.shown_specials) if generate.text.shown_specials else {}
        prompt_text = self._prompt_text(generate, submit, source)
        return Prepared(submit, choices, resumed_texts, prompt_text, starts_inside, frozenset(shown))

    def _tokenized(self, generate: Generate, ids: list[int]) -> Tokenized:
        text, strings = generate.text, self._tokenizer.strings
        shown = [strings[one] if one < len(strings) else "" for one in ids] if text.return_token_strings else []
        written = self._tokenizer.decode(ids) if text.return_prompt_text else ""
        return Tokenized(Accepted(generate.request_id, len(ids), pack_ids(ids), written, token_strings=shown))

    def _choice(self, generate: Generate, stops: StopStrings) -> ChoiceText:
        text = generate.text
        detokenizer = self._tokenizer.detokenizer(
            text.skip_special_tokens, text.spaces_between_special_tokens, text.shown_specials
        )
        if not stops.stops:
            return PlainText(detokenizer)
        return StoppableText(detokenizer, stops, text.include_stop_str_in_output, generate.sampling.min_tokens)

    def _prompt_text(self, generate: Generate, submit: Submit, source: str | Rendered | None) -> str:
        """The prompt as text: as it was written, or decoded where only ids are true to it."""
        if not generate.text.return_prompt_text:
            return ""
        if source is None or generate.text.truncate_prompt_tokens is not None:
            return self._tokenizer.decode(unpack_ids(submit.prompt_ids))
        return source if isinstance(source, str) else source.text


def _text(prompt: TextPrompt) -> str:
    if not prompt.text:
        raise ApiError(INVALID_VALUE, "prompt is empty", "prompt")
    return prompt.text


def _json(field: str, data: bytes, kind: Any) -> Any:
    if not data:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ApiError(INVALID_VALUE, f"{field} is not of the right form, or nested too deeply", field) from None


def _refusal(job: Job, error: Exception) -> Refused:
    request_id = job.generate.request_id
    if isinstance(error, ApiError):
        return Refused(request_id, error.status, error.code, error.message, error.param, error.retry_after_seconds)
    logger.error("request %d could not be prepared", request_id, exc_info=error)
    return refused(request_id, INTERNAL_ERROR, "the request could not be prepared; the server's log says why")
