"""Every message between Quire's processes, in the order a request meets them.

One tagged union per direction per link; each socket owns one typed decoder of its union.
All are arrays on the wire (field order is the format), prompt and output ids are
little-endian int32 bytes, and what a step produces travels column-wise, once per peer.
Knows nothing of sockets: see link.py for how they travel.
"""

from __future__ import annotations

from typing import NewType, TypeAlias

import msgspec

PROTOCOL = 7
"""Raised whenever a message changes shape; peers of another number are refused."""

RequestId = NewType("RequestId", int)
"""Unique over all frontends and restarts (see request_ids.py); 63 bits."""

Slot = NewType("Slot", int)
"""A row of the worker's batch, 0 <= slot < max_num_seqs."""


class _Message(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """How everything here is encoded: an array on the wire, a value in memory. Only messages have a tag."""


# --- 1. Everyone, to everyone below: who I am. Everyone, to everyone above: how I am. -----------


class Hello(_Message, frozen=True, tag="hello"):
    """From a client, at once when it dials and then every second: I am here."""

    name: str
    incarnation: int
    protocol: int = PROTOCOL


class Look(_Message, frozen=True, tag="look"):
    """From the launcher, to all above workers: a service has ended this moment; see who, before the next poll would."""


class GenerationDefaults(_Message, frozen=True):
    """Sampling defaults of a checkpoint (generation_config.json); None where it has none."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None


class ReasoningIds(_Message, frozen=True):
    """The tokens by which reasoning is counted."""

    start: list[int] = []
    """Those that begin each stretch of it, one after the other; none: it begins with the answer."""
    ends: list[int] = []
    """Each of which ends it; none: it cannot be counted."""


class ModelCard(_Message, frozen=True):
    """What a frontend must know of the served model."""

    names: list[str]
    """Served names; the first is the one that answers carry by default."""
    root: str
    created: int
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    num_kv_tokens: int
    """Capacity of the KV cache, in tokens."""
    has_chat_template: bool
    defaults: GenerationDefaults
    eos_token_ids: list[int] = []
    tool_format: str = ""
    """How the model writes tool calls and reasoning: names in output_formats.py; "" where nothing is looked for."""
    reasoning_format: str = ""
    reasoning_ids: ReasoningIds = ReasoningIds()
    limits: dict[str, int | float] = {}
    """What the tokenizer bounds of a request, by the names of its flags; for people."""
    max_chars_per_token: int | None = None
    """Characters of a text that one token can stand for; None where that cannot be said."""


class Report(_Message, frozen=True, tag="report"):
    """How a service is; sent upwards every second and whenever its state changes.

    Frontends also send theirs down to the tokenizers, which reflect it, so that every
    frontend can serve the metrics of all.
    """

    name: str
    incarnation: int
    sequence: int
    state: str
    """starting | ready | draining | failed."""
    detail: str
    """What is awaited while starting; the cause when failed."""
    progress: float
    """0 to 1 while something long is under way (loading weights)."""
    steps: int
    """Grows with every unit of work done: a health check reads progress, not existence."""
    samples: dict[str, float] = {}
    """Metric samples by their Prometheus sample name with labels (see metrics.py)."""
    memory_plan: list[tuple[str, int]] = []
    """(what, bytes), from a worker that is ready."""
    card: ModelCard | None = None
    known: list[Report] = []
    """The last reports of the services this one hears from, itself without `known`."""
    pid: int = 0
    """As the service itself sees it."""


# --- 2. frontend -> tokenizer ---------------------------------------------------------------------


class ChatPrompt(_Message, frozen=True, tag="chat"):
    """Messages to be rendered by the checkpoint's chat template; JSON as the client sent it, checked."""

    messages_json: bytes
    tools_json: bytes = b""
    template_kwargs_json: bytes = b""
    documents_json: bytes = b""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str = ""
    """The client's own, instead of the checkpoint's."""


class TextPrompt(_Message, frozen=True, tag="text"):
    text: str
    add_special_tokens: bool = True


class IdsPrompt(_Message, frozen=True, tag="ids"):
    token_ids: bytes


Prompt: TypeAlias = ChatPrompt | TextPrompt | IdsPrompt


class SamplingParams(_Message, frozen=True):
    """How tokens are drawn; all resolved (no client's null is left) but max_tokens."""

    max_tokens: int | None = None
    """None: as many as fit. The tokenizer resolves and clamps it before the engine sees it."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """Unsigned 64 bits, always resolved; choice i of a request uses seed + i."""
    ignore_eos: bool = False
    stop_token_ids: list[int] = []
    logit_bias: dict[int, float] = {}
    allowed_token_ids: list[int] | None = None
    bad_token_ids: list[int] = []
    logprobs: int | None = None
    """None: none; 0: of the sampled token only; k: and of the k likeliest."""
    prompt_logprobs: int | None = None


class TextParams(_Message, frozen=True):
    """What happens between token ids and text; never reaches the engine."""

    stop: list[str] = []
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    return_prompt_ids: bool = False
    return_prompt_text: bool = False
    shown_specials: list[str] = []
    """Special tokens that stay in the text though others are skipped: the markers of its parser."""
    only_tokenizes: bool = False
    """Nothing is run, the tokenizer answers by an Accepted itself. A prompt may be longer than the model takes."""
    return_token_strings: bool = False
    bad_words: list[str] = []
    """The tokenizer makes token ids of them: single ones, and sequences that the engine minds."""
    keeps_start: bool = False
    """Truncation drops the end of a prompt, not its beginning."""


class Constraint(_Message, frozen=True):
    """What the text of an answer has to be, as the client wrote it; one field for every way of saying so."""

    kind: str
    """json (body: a schema) | regex | choice (a JSON list of strings) | grammar (Lark or GBNF) |
    structural_tag (its JSON)."""
    body: str
    field: str = "structured_outputs"
    """Of the request: what a refusal names."""
    is_whitespace_flexible: bool = False
    """JSON with white space between its parts; otherwise compact."""
    after: str = ""
    """The constraint begins behind this text (the end of reasoning); "": with the first token."""


class Grammar(_Message, frozen=True):
    """A Constraint as the engine takes it: checked, and in the one form that all kinds have become."""

    text: str
    """llguidance's own form: JSON with a list of grammars."""
    field: str
    after: str = ""


class History(_Message, frozen=True):
    """What a choice has already produced, so that a request can be submitted again and go on."""

    output_ids: bytes
    sent_chars: int
    """Characters of its text that the client has."""
    is_finished: bool = False


class Generate(_Message, frozen=True, tag="generate"):
    request_id: RequestId
    prompt: Prompt
    n: int
    sampling: SamplingParams
    text: TextParams
    priority: int
    """Lower runs sooner, under the priority policy."""
    arrival: float
    """Unix seconds."""
    cache_salt: str = ""
    history: list[History] = []
    """Empty, or one entry a choice."""
    is_suspect: bool = False
    """It was in the batch of crashes before: to be run alone, and Accepted only once it does."""
    max_queue_seconds: float = 0.0
    """How long it may wait in the engine to run before it is Refused; 0: for ever."""
    constraint: Constraint | None = None


class Abort(_Message, frozen=True, tag="abort"):
    """Also tokenizer -> engine. No answer comes; what is under way for it may still arrive."""

    request_id: RequestId
    choice: int | None
    """None: the whole request."""
    cause: str
    """client_gone | stop_string | slow_reader | queue_timeout | cancelled | peer_gone | shutdown."""


class Inquiry(_Message, frozen=True, tag="inquiry"):
    """Between sibling frontends, about a response that one of them may have stored. A tokenizer carries it."""

    to: str
    sender: str
    """Names of frontends."""
    ticket: int
    """The sender's, for the answer."""
    operation: str
    """answer | input | items | conversation | delete | cancel (see stored_responses.py)."""
    response_id: str
    key_name: str
    """Of the caller's API key."""


class Finding(_Message, frozen=True, tag="finding"):
    """The answer to an Inquiry, carried the same way."""

    to: str
    sender: str
    ticket: int
    outcome: str
    """found | absent | refused | unreachable (from the tokenizer itself: `sender` is not there)."""
    body: bytes = b""
    """JSON, when found."""
    code: str = ""
    message: str = ""
    param: str | None = None
    """Of an error, when refused."""


class Bequest(_Message, frozen=True, tag="bequest"):
    """A stored response, from a frontend that ends to a sibling that goes on. A tokenizer carries it."""

    to: str
    response_id: str
    key_name: str
    status: str
    answer: bytes
    input_items: bytes
    messages: bytes
    """JSON, as the store has them."""


ToTokenizer: TypeAlias = Hello | Look | Report | Generate | Abort | Inquiry | Finding | Bequest


# --- 3. tokenizer -> engine -------------------------------------------------------------------------


class Submit(_Message, frozen=True, tag="submit"):
    request_id: RequestId
    prompt_ids: bytes
    n: int
    sampling: SamplingParams
    priority: int
    arrival: float
    cache_salt: str = ""
    history: list[History] = []
    is_suspect: bool = False
    max_queue_seconds: float = 0.0
    grammar: Grammar | None = None
    bad_sequences: list[bytes] = []
    """int32 ids, two or more: the last one may not be sampled behind the others."""


class Vocabulary(_Message, frozen=True, tag="vocabulary"):
    """What grammars are matched with; to each engine that is ready, before its first Submit with a grammar."""

    tokenizer_json: bytes
    """The checkpoint's tokenizer.json, or what its other files amount to."""


ToEngine: TypeAlias = Hello | Look | Submit | Abort | Vocabulary


# --- 4. engine -> worker ----------------------------------------------------------------------------


class Configure(_Message, frozen=True, tag="configure"):
    """Once, before the first plan; a second one to a configured worker starts it afresh (all slots free)."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int | None
    """None: the checkpoint's, or what the KV cache holds if that is less."""
    block_size: int
    kv_cache_memory_bytes: int | None
    """None: by memory_utilization."""
    memory_utilization: float


class NewRow(_Message, frozen=True):
    """A row named in full: everything a slot needs. Token ids hold the prompt and the outputs known."""

    slot: Slot
    token_ids: bytes
    num_prompt_tokens: int
    num_computed_tokens: int
    block_ids: bytes
    sampling: SamplingParams
    seed: int


class Plan(_Message, frozen=True, tag="plan"):
    """One step. Applied in this order: released, new rows, added blocks, copies, then the forward.

    A row whose computed + scheduled tokens reach its token count samples one token, appends it to
    its slot (so that the next plan can go out before this one's result is known) and has one entry
    in the result, in the order of `slots`.
    """

    step: int
    released: list[int]
    new_rows: list[NewRow]
    added_block_slots: bytes
    """int32, one entry per added block."""
    added_block_ids: bytes
    copies: bytes
    """int32 pairs (from block, to block)."""
    slots: bytes
    """int32: the rows of this step. Rows of one scheduled token first."""
    num_scheduled: bytes
    """int32, parallel to slots."""
    num_computed: bytes
    """int32, parallel to slots: tokens of the row whose KV is in the cache before this step."""
    awaits_masks: bool = False
    """Masks of this step will come, once the tokens before it are known: wait for them before sampling."""


class Masks(_Message, frozen=True, tag="masks"):
    """Which tokens rows of a step may sample. Sent after its Plan, while workers compute the step's logits."""

    step: int
    rows: bytes
    """int32: indices into the sampling rows, ascending; a row that is not there may sample any token."""
    bits: bytes
    """uint32 [len(rows), ceil(vocab_size / 32)], lowest bit first: 1 is allowed."""


ToWorker: TypeAlias = Hello | Configure | Plan | Masks


# --- 5. worker -> engine ----------------------------------------------------------------------------


class TokenLogprobs(_Message, frozen=True):
    """Logprobs of the tokens of one row; K = len(top_ids) / 4 / number of tokens."""

    row: int
    logprobs: bytes
    """float32 [num_tokens], of the tokens themselves, from the raw logits."""
    ranks: bytes
    """int32 [num_tokens], 1 is the likeliest."""
    top_ids: bytes
    """int32 [num_tokens, K], likeliest first."""
    top_logprobs: bytes
    """float32 [num_tokens, K]."""


class WorkerReady(_Message, frozen=True, tag="worker_ready"):
    """Answer to Configure: what was found out at start."""

    num_blocks: int
    max_model_len: int
    vocab_size: int
    eos_token_ids: list[int]
    device: str
    dtype: str
    backend: str
    memory_plan: list[tuple[str, int]]


class StepResult(_Message, frozen=True, tag="step_result"):
    step: int
    token_ids: bytes
    """int32, one per sampling row, in the order of the plan's slots."""
    failed_rows: list[int]
    """Indices into the sampling rows whose logits were not finite; their token is meaningless."""
    logprobs: list[TokenLogprobs]
    """`row` indexes the sampling rows."""
    prompt_logprobs: list[TokenLogprobs]
    """`row` indexes the plan's slots; the tokens after each scheduled prompt position that has one."""
    seconds: float


FromWorker: TypeAlias = Report | WorkerReady | StepResult


# --- 6. engine -> tokenizer -------------------------------------------------------------------------


class Accepted(_Message, frozen=True, tag="accepted"):
    """Also tokenizer -> frontend: the yes that response headers wait for."""

    request_id: RequestId
    num_prompt_tokens: int
    prompt_ids: bytes = b""
    prompt_text: str = ""
    starts_in_reasoning: bool = False
    """The prompt's end has begun the reasoning; from the tokenizer."""
    token_strings: list[str] = []
    """The prompt's tokens as the vocabulary writes them, where asked for."""


class Refused(_Message, frozen=True, tag="refused"):
    """Also tokenizer -> frontend: the request ends here, without an output.

    Comes instead of Accepted, or after it to a request that has waited for too long to run.
    """

    request_id: RequestId
    status: int
    """HTTP status."""
    code: str
    message: str
    param: str | None = None
    retry_after_seconds: float | None = None


RESUMABLE = ("lost", "moved")
"""Finish reasons after which the record's owner may submit it again."""


class Finished(_Message, frozen=True):
    """The end of one choice; `row` indexes the batch it comes with."""

    row: int
    reason: str
    """stop | length | abort | error; or, where the record can be submitted again to go on,
    lost (what ran it is gone) | moved (what runs it is leaving on purpose)."""
    stop_reason: int | str | None = None
    """The stop token id or stop string that ended it; None for EOS."""
    message: str = ""
    """For error, lost and moved: a sentence for the client."""


class Started(_Message, frozen=True):
    """With the first tokens of a choice; `row` indexes the batch it comes with."""

    row: int
    num_cached_tokens: int
    queue_seconds: float


class TokenBatch(_Message, frozen=True, tag="token_batch"):
    """One step's outputs for one tokenizer: columns, one row a choice."""

    request_ids: list[int]
    choices: list[int]
    counts: list[int]
    """Tokens of each row: 1, but 0 for an end without a token."""
    token_ids: bytes
    """int32, sum(counts) of them."""
    started: list[Started] = []
    finished: list[Finished] = []
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs] = []
    """The whole prompt but its first token, with the first tokens of choice 0."""


ToTokenizerFromEngine: TypeAlias = Report | Accepted | Refused | TokenBatch


# --- 7. tokenizer -> frontend -----------------------------------------------------------------------


class LogprobEntry(_Message, frozen=True):
    """One token as logprobs show it. Raw bytes: a token may hold half a character."""

    token_id: int
    token: bytes
    logprob: float
    rank: int = 0


class TextLogprobs(_Message, frozen=True):
    """Logprobs of the tokens of one row."""

    row: int
    tokens: list[LogprobEntry]
    top: list[list[LogprobEntry]]
    """Parallel to tokens; likeliest first."""


class TextBatch(_Message, frozen=True, tag="text_batch"):
    """One TokenBatch turned to text, for one frontend: columns, one row a choice."""

    request_ids: list[int]
    choices: list[int]
    texts: list[str]
    """Deltas; may be empty while a character or a stop string is incomplete."""
    counts: list[int]
    token_ids: bytes
    started: list[Started] = []
    finished: list[Finished] = []
    logprobs: list[TextLogprobs] = []
    prompt_logprobs: list[TextLogprobs] = []


ToFrontend: TypeAlias = Report | Accepted | Refused | TextBatch | Inquiry | Finding | Bequest


# --- 8. The operator's commands, to the launcher ------------------------------------------------------


class Scale(_Message, frozen=True, tag="scale"):
    service: str
    count: int


class Replace(_Message, frozen=True, tag="replace"):
    """Replace services one after the other, their requests moving on."""

    service: str
    name: str = ""
    """Empty: all of that kind."""


class Done(_Message, frozen=True, tag="done"):
    """The launcher's answer to a command."""

    is_ok: bool
    text: str


ToLauncher: TypeAlias = Hello | Replace | Scale
FromLauncher: TypeAlias = Report | Done


class Outages(_Message, frozen=True, tag="outages"):
    """From the launcher: what has ended that should not have."""

    causes: dict[str, str]
    """Services that crashed too often and stay down, each with its last cause."""
    restarts: dict[str, int] = {}
    """How often each service that was lost has been started again."""


class Departed(_Message, frozen=True, tag="departed"):
    """From the launcher, before its first Outages and when a service has ended: what all of its name have counted."""

    name: str
    incarnation: int
    """The last of those that are counted here."""
    samples: dict[str, float]
    """Sums of counters and histograms over all of them."""


ToFrontendFromOperator: TypeAlias = Hello | Look | Outages | Departed
"""What a frontend hears at its own address: that someone wants its reports, and what was lost."""


# --- 9. tokenizer <-> its helper, which runs what clients wrote -----------------------------------------


class Program(_Message, frozen=True, tag="program"):
    kind: str
    """template | content_form | regex | json_schema | grammar (Lark) | gbnf (to be converted to Lark) | constraint."""
    source: str
    variables_json: bytes = b""
    """Of a template."""


class Outcome(_Message, frozen=True, tag="outcome"):
    result: str
    """ready (the first, unasked) | ok | error | time | memory; where it is read also lost | unavailable."""
    text: str = ""
    """What was rendered; a sentence when it is not ok."""
