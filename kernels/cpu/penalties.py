"""Repetition, frequency and presence penalties, by the tokens that are there rather than over the vocabulary."""

from __future__ import annotations

import torch


def apply_penalties(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    is_token: torch.Tensor,
    is_output: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> None:
    # Where there is no token stands one that the row has: writing its value twice changes nothing.
    all_ids = torch.where(is_token, token_ids, token_ids[:, :1])
    values = logits.gather(1, all_ids)
    factor = repetition[:, None]
    logits.scatter_(1, all_ids, torch.where(values > 0, values / factor, values * factor))
    logits.scatter_add_(1, all_ids, torch.where(is_output, -frequency[:, None], 0.0))
    # An id may be both in the prompt and among the outputs: what is no output points at one that is, so
    # that equal values are written again; a row without outputs writes what it has.
    first_output = token_ids.gather(1, is_output.to(torch.int64).argmax(dim=1, keepdim=True))
    output_ids = torch.where(is_output, token_ids, first_output)
    taken = presence[:, None] * is_output.any(dim=1, keepdim=True)
    logits.scatter_(1, output_ids, logits.gather(1, output_ids) - taken)
