"""Drawing tokens and their logprobs: candidates first, then inverse CDF; a sort only where candidates do not suffice.

The likeliest 256 tokens decide nearly every draw. For a row whose support they do not hold, the
rest is taken in the order of ids (nothing cut off) or the row is sorted (cut off somewhere beyond).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_NUM_CANDIDATES = 256
_REST_ROWS = 16
"""Rows whose whole vocabulary is summed up at once; bounds memory."""


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


class _Draw(NamedTuple):
    """What candidates say of each row."""

    places: torch.Tensor
    """Index of the drawn candidate [N], right where is_decided."""
    is_decided: torch.Tensor
    is_in_rest: torch.Tensor
    """Nothing is cut off and the draw lies beyond the candidates."""
    covered: torch.Tensor
    """Mass of the candidates, relative to the likeliest."""
    targets: torch.Tensor


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    logits.div_(temperature[:, None])
    vocab_size = logits.shape[1]
    values, ids = torch.topk(logits, min(_NUM_CANDIDATES, vocab_size), dim=-1)
    draw = _draw(logits, values, top_k, top_p, min_p, uniforms)
    drawn = ids.gather(1, draw.places[:, None])[:, 0]
    if bool(draw.is_decided.all()):
        return drawn
    for rows in torch.nonzero(draw.is_in_rest)[:, 0].split(_REST_ROWS):
        drawn[rows] = _draw_from_rest(
            logits[rows], values[rows, :1], ids[rows], draw.targets[rows] - draw.covered[rows]
        )
    for rows in torch.nonzero(~draw.is_decided & ~draw.is_in_rest)[:, 0].split(_REST_ROWS):
        values, ids = torch.sort(logits[rows], dim=-1, descending=True)
        places = _draw(logits[rows], values, top_k[rows], top_p[rows], min_p[rows], uniforms[rows]).places
        drawn[rows] = ids.gather(1, places[:, None])[:, 0]
    return drawn


def _draw(
    logits: torch.Tensor,
    values: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> _Draw:
    """values [N, C]: the C likeliest logits of each row, likeliest first."""
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
    limits = (total * top_p).unsqueeze(1)
    last = torch.where(has_top_p, torch.searchsorted(cumulative, limits)[:, 0], (weights > 0).sum(dim=1) - 1).clamp_(
        0, num_candidates - 1
    )
    mass = torch.where(has_top_p, cumulative.gather(1, last[:, None])[:, 0], total)
    targets = uniforms * mass
    places = torch.searchsorted(cumulative, targets.unsqueeze(1), right=True)[:, 0]
    is_in_rest = is_uncut & ~has_top_p & (targets >= covered)
    is_decided = is_whole | (is_uncut & torch.where(has_top_p, covered >= limits[:, 0], targets < covered))
    return _Draw(torch.minimum(places, last), is_decided, is_in_rest, covered, targets)


def _totals(logits: torch.Tensor, top: torch.Tensor, covered: torch.Tensor, is_uncut: torch.Tensor) -> torch.Tensor:
    """Mass of what may be drawn: the candidates', or the whole vocabulary's where nothing is cut off."""
    total = covered.clone()
    rows = torch.nonzero(is_uncut)[:, 0]
    for part in rows.split(_REST_ROWS):
        total[part] = (logits[part] - top[part]).exp_().sum(dim=-1, dtype=torch.float64)
    return total


def _draw_from_rest(
    logits: torch.Tensor, top: torch.Tensor, candidates: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The token where the mass of all but the candidates, summed in the order of ids, passes `targets` [N]."""
    weights = (logits - top).double().exp_()
    weights.scatter_(1, candidates, 0.0)
    cumulative = weights.cumsum(dim=1)
    ids = torch.searchsorted(cumulative, targets.unsqueeze(1), right=True)[:, 0]
    # Rounding may put the target at the very end: then the last token that has any mass.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())[:, 0]
    return torch.minimum(ids, last)
