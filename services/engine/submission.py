"""The engine's own look at a Submit: only the bounds that could hurt the device or starve the queue.

Shape and wording were checked above; what is refused here is a bug there, an overload, or a start.
"""

from __future__ import annotations

from array import array

from quire.shared import errors
from quire.shared.messages import Refused, Submit

from .limits import Limits
from .scheduler import Scheduler


def refusal(
    submit: Submit, scheduler: Scheduler, vocab_size: int, max_open_choices: int, num_held: int = 0
) -> Refused | None:
    """Why this request cannot be taken, or None. `num_held`: choices that are open and not yet with the scheduler."""
    limits: Limits = scheduler.limits
    num_prompt = len(submit.prompt_ids) // 4
    if num_prompt == 0 or len(submit.prompt_ids) % 4:
        return errors.refused(submit.request_id, errors.INVALID_VALUE, "the prompt has no tokens", "prompt")
    max_tokens = submit.sampling.max_tokens
    if max_tokens is None or num_prompt + max_tokens > limits.max_model_len:
        message = (
            f"the prompt has {num_prompt} tokens and max_tokens is {max_tokens};"
            f" max_model_len is {limits.max_model_len}"
        )
        return errors.refused(submit.request_id, errors.CONTEXT_LENGTH_EXCEEDED, message, "max_tokens")
    if any(len(entry.output_ids) % 4 for entry in submit.history):
        message = "the history's token ids are not 32-bit integers"
        return errors.refused(submit.request_id, errors.INVALID_VALUE, message, "prompt")
    if any(len(sequence) % 4 or len(sequence) < 8 for sequence in submit.bad_sequences):
        message = "a bad word's token ids are not two 32-bit integers or more"
        return errors.refused(submit.request_id, errors.INVALID_VALUE, message, "bad_words")
    if submit.n < 1 or (submit.history and len(submit.history) != submit.n):
        message = f"n is {submit.n} with {len(submit.history)} histories"
        return errors.refused(submit.request_id, errors.INVALID_VALUE, message, "n")
    out_of_range = _out_of_range(submit, vocab_size)
    if out_of_range is not None:
        message = f"token id {out_of_range} is not in the vocabulary of {vocab_size}"
        return errors.refused(submit.request_id, errors.INVALID_VALUE, message, "prompt")
    if submit.n > max_open_choices:  # which no waiting would change
        message = f"n is {submit.n}; --max-waiting allows {max_open_choices} choices at once"
        return errors.refused(submit.request_id, errors.INVALID_VALUE, message, "n")
    num_open = scheduler.num_open_choices + num_held
    if num_open + submit.n > max_open_choices:
        message = f"{num_open} choices are open; --max-waiting allows {max_open_choices}"
        return errors.refused(submit.request_id, errors.RATE_LIMIT_EXCEEDED, message, retry_after_seconds=1.0)
    return None


def _out_of_range(submit: Submit, vocab_size: int) -> int | None:
    """A token id outside of [0, vocab_size) anywhere in the request."""
    sampling = submit.sampling
    ids = array("i")
    ids.frombytes(submit.prompt_ids)
    for history in submit.history:
        ids.frombytes(history.output_ids)
    for sequence in submit.bad_sequences:
        ids.frombytes(sequence)
    extremes = [min(ids), max(ids), *sampling.stop_token_ids, *sampling.logit_bias, *sampling.bad_token_ids]
    extremes += sampling.allowed_token_ids or ()
    return next((token for token in extremes if not 0 <= token < vocab_size), None)
