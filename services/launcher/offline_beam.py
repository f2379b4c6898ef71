"""Beam search of the offline API: each step of each beam is a job of one token, whose prompt is in the prefix cache.

The search itself is shared/beam_search.py's. Beams of all prompts go together, so that a step of the engine has many.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from quire.shared.beam_search import Beam, BeamSearch, BeamTrails, EarlyStopping
from quire.shared.messages import History, IdsPrompt, Prompt

from .offline_link import Job
from .offline_params import Completion, Output, SamplingParams, TokenLogprob
from .offline_session import OfflineSession


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True):
    """As transformers' generate(num_beams=beam_width, ...) has it."""

    beam_width: int = 4
    max_tokens: int = 64
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    """False | True | "never": when ended beams are enough."""
    num_return: int | None = None
    """Best beams to give; None: all of the width."""
    ignore_eos: bool = False
    logprobs: int | None = None
    """As in SamplingParams: the choices' tokens have them, each with so many of the likeliest."""


class _Search:
    """One prompt's search and what becomes of it."""

    def __init__(self, prompt: Prompt, params: BeamSearchParams, eos_token_ids: Sequence[int]) -> None:
        self.prompt = prompt
        self.prompt_ids: list[int] = []
        eos = () if params.ignore_eos else eos_token_ids
        width, most = params.beam_width, params.max_tokens
        self.beams = BeamSearch(width, most, eos, params.length_penalty, params.early_stopping)
        self.eos = frozenset(eos)
        self.num_top = params.logprobs
        self.trails: BeamTrails[TokenLogprob] = BeamTrails()
        self.error = ""


def beam_search(session: OfflineSession, prompts: Sequence[Prompt], params: BeamSearchParams) -> list[Output]:
    """One output a prompt, its choices the best beams, best first. A bad prompt has an `error`. Raises ValueError."""
    if params.beam_width < 1 or params.max_tokens < 1:
        raise ValueError("beam_width and max_tokens are at least 1")
    eos_token_ids = session.card.eos_token_ids if session.card else []
    searches = [_Search(prompt, params, eos_token_ids) for prompt in prompts]
    while running := [search for search in searches if not search.error and search.beams.running]:
        _step(session, running)
    return _outputs(session, searches, params.num_return or params.beam_width)


def _step(session: OfflineSession, searches: Sequence[_Search]) -> None:
    """One token further, all beams of all searches together."""
    asked: list[tuple[_Search, list[Job]]] = []
    jobs: list[Job] = []
    for search in searches:
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            logprobs=max(search.beams.num_candidates, search.num_top or 0),
            stop=(),
        )
        own = [Job(_continued(search, beam), sampling) for beam in search.beams.running]
        asked.append((search, own))
        jobs += own
    session.run(jobs)
    for search, own in asked:
        search.error = next((job.output.error for job in own if job.output.error), "")
        if not search.error:
            search.prompt_ids = search.prompt_ids or own[0].output.prompt_ids
            likeliest = [_likeliest(job.output.choices[0]) for job in own]
            if search.num_top is not None:
                search.trails.note(search.beams.running, [_scored(top, search.num_top) for top in likeliest])
            search.beams.step([[(token_id, logprob) for token_id, _, logprob in top] for top in likeliest])
            if search.num_top is not None:
                search.trails.keep([*search.beams.running, *search.beams.best])


def _continued(search: _Search, beam: Beam) -> Prompt:
    if not beam.token_ids:
        return search.prompt
    return IdsPrompt(array("i", [*search.prompt_ids, *beam.token_ids]).tobytes())


_Top = list[tuple[int, str, float]]
"""(token id, text, logprob), likeliest first."""


def _likeliest(choice: Completion) -> _Top:
    (sampled,) = choice.logprobs or []
    return sampled.top


def _scored(top: _Top, num_top: int) -> dict[int, TokenLogprob]:
    """What each of the tokens is shown with, if a beam takes it."""
    return {token_id: TokenLogprob(token_id, text, logprob, top[:num_top]) for token_id, text, logprob in top}


def _outputs(session: OfflineSession, searches: Sequence[_Search], num_return: int) -> list[Output]:
    """With the beams' texts: a request whose whole output is its history comes back as text, and computes nothing."""
    outputs: list[Output] = []
    decoded: list[tuple[Job, Completion]] = []
    for search in searches:
        best = search.beams.best[:num_return]
        choices = [_completion(index, beam, search) for index, beam in enumerate(best)]
        outputs.append(Output(search.prompt_ids, choices or [Completion(0, finish_reason="error")], search.error))
        if search.error:
            continue
        for choice, beam in zip(choices, best, strict=True):
            params = SamplingParams(max_tokens=len(beam.token_ids), temperature=0.0, ignore_eos=True)
            job = Job(IdsPrompt(array("i", search.prompt_ids).tobytes()), params)
            job.history = [History(array("i", beam.token_ids).tobytes(), 0)]
            decoded.append((job, choice))
    session.run([job for job, _ in decoded])
    for job, choice in decoded:
        choice.text = job.output.text
    return outputs


def _completion(index: int, beam: Beam, search: _Search) -> Completion:
    reason = "stop" if beam.token_ids[-1] in search.eos else "length"
    logprobs = None if search.num_top is None else search.trails.of(beam)
    if logprobs and reason == "stop":
        logprobs[-1] = msgspec.structs.replace(logprobs[-1], token="")  # it is not in the text
    return Completion(index, "", list(beam.token_ids), reason, logprobs=logprobs, score=beam.score)
