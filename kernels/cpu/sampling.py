"""Drawing tokens and their logprobs: candidates first, then inverse CDF, never a sort of the vocabulary.

The likeliest 256 tokens decide nearly every draw; a row for which they do not is drawn by exact_draw.py.
"""

from __future__ import annotations

import torch

from .exact_draw import draw_exactly

_NUM_CANDIDATES = 256
_ROWS_AT_ONCE = 16
"""Whose whole vocabulary is summed up; bounds memory."""


def rows_are_finite(logits: torch.Tensor) -> torch.Tensor:
    # One sum carries any NaN or infinity; finite float32 logits do not overflow it.
    return torch.isfinite(logits.sum(dim=-1))


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return torch.argmax(logits, dim=-1)


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    chosen = logits.gather(1, token_ids[:, None])
    ranks = (logits > chosen).sum(dim=-1) + 1
    top, top_ids = torch.topk(logits, num_top, dim=-1)
    return (chosen - log_total)[:, 0], ranks, top_ids, top - log_total


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    logits.div_(temperature[:, None])
    values, ids = torch.topk(logits, min(_NUM_CANDIDATES, logits.shape[1]), dim=-1)
    places, is_decided = _draw(logits, values, top_k, top_p, min_p, uniforms)
    drawn = ids.gather(1, places[:, None])[:, 0]
    for row in torch.nonzero(~is_decided)[:, 0].tolist():
        parameters = (int(top_k[row]), float(top_p[row]), float(min_p[row]), float(uniforms[row]))
        drawn[row] = draw_exactly(logits[row].cpu().numpy(), *parameters)
    return drawn


def _draw(
    logits: torch.Tensor,
    values: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """values [N, C]: the C likeliest logits of each row, likeliest first.

    Returns the index of the drawn candidate [N], and whether candidates suffice to know it [N].
    """
    num_candidates = values.shape[1]
    weights = (values.double() - values[:, :1].double()).exp_()
    is_kept = weights >= min_p[:, None]
    is_kept &= (top_k[:, None] == 0) | (torch.arange(num_candidates, device=values.device) < top_k[:, None])
    weights.masked_fill_(~is_kept, 0.0)
    cumulative = weights.cumsum(dim=1)
    covered = cumulative[:, -1].contiguous()
    is_whole = ~is_kept[:, -1] | (top_k == num_candidates)
    if num_candidates == logits.shape[1]:
        is_whole = torch.ones_like(is_whole)
    is_uncut = ~is_whole & (top_k == 0) & (min_p <= 0)
    total = _totals(logits, values[:, :1], covered, is_uncut)
    has_top_p = top_p < 1
    limits = total * top_p
    last_of_top_p = torch.searchsorted(cumulative, limits.unsqueeze(1))[:, 0]
    last = torch.where(has_top_p, last_of_top_p, (weights > 0).sum(dim=1) - 1).clamp_(0, num_candidates - 1)
    targets = uniforms * torch.where(has_top_p, cumulative.gather(1, last[:, None])[:, 0], total)
    places = torch.searchsorted(cumulative, targets.unsqueeze(1), right=True)[:, 0]
    is_enough = torch.where(has_top_p, covered >= limits, targets < covered)
    return torch.minimum(places, last), is_whole | (is_uncut & is_enough)


def _totals(logits: torch.Tensor, top: torch.Tensor, covered: torch.Tensor, is_uncut: torch.Tensor) -> torch.Tensor:
    """Mass of what may be drawn [N]: the candidates', or the whole vocabulary's where nothing is cut off."""
    total = covered.clone()
    for rows in torch.nonzero(is_uncut)[:, 0].split(_ROWS_AT_ONCE):
        total[rows] = (logits[rows] - top[rows]).exp_().sum(dim=-1, dtype=torch.float64)
    return total
