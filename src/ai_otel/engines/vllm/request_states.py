"""
vLLM's own state of each engine request: what is read of it, and how it finds its inference.

Source of the names: `vllm/v1/engine/output_processor.py` and `vllm/v1/metrics/stats.py`, unchanged from 0.11.1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from operator import attrgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

from ai_otel.hooks.arguments import Arguments
from ai_otel.record import Choice, Progress
from ai_otel.recorder import CURRENT


class RequestStateStats(Protocol):
    """Two clocks: `arrival_time` is the front end's wall clock, every `*_ts` the engine process's monotonic one."""

    num_generation_tokens: int
    arrival_time: float
    queued_ts: float
    scheduled_ts: float
    first_token_ts: float
    last_token_ts: float
    first_token_latency: float


class RequestState(Protocol):
    """One choice of one request. `stats` is `None` where statistics are off."""

    request_id: str
    prompt_len: int
    is_prefilling: bool
    num_cached_tokens: int
    stats: RequestStateStats | None


class EndedState(NamedTuple):
    """What is kept of a request state that has ended: a record that waits must not keep prompts in memory."""

    prompt_len: int
    is_prefilling: bool
    num_cached_tokens: int
    stats: RequestStateStats | None
    """An object of its own that holds numbers only."""


State = RequestState | EndedState


class ParentRequest(Protocol):
    """What the choices of one request with n > 1 share."""

    request_id: str


class EngineRequest(Protocol):
    """What is sent to the engine process."""

    request_id: str


class OutputProcessor(Protocol):
    """Keeps the states of running requests, by their internal id."""

    request_states: Mapping[str, RequestState]


Collect = Callable[[RequestState], None]

OFFLINE: ContextVar[Collect | None] = ContextVar("ai_otel_vllm_offline", default=None)
"""Where the states of the running offline call go."""


T = TypeVar("T")

_CALL: ContextVar[object | None] = ContextVar("ai_otel_vllm_call", default=None)
"""
The owner of the newest entry of `InFlight` that this task, or the one that started it, has added outside of any HTTP
request that is observed: inside, the record of that request is the owner.
"""


class InFlight(Generic[T]):
    """
    What belongs to each running request, by its id.

    Clients choose the id (`X-Request-Id`), so several requests may share one. These are distinguished by the task
    in which they run: a server gives every request its own.
    """

    def __init__(self) -> None:
        # Owner and entry; a dictionary of these where requests share the id.
        self._entries: dict[str, tuple[object, T] | dict[object, T]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, request_id: str, owner: object, value: T, *, alone: bool = True) -> None:
        """
        Add the entry of one request; `owner` distinguishes it from another request with this id.

        Unless it is `alone`, the owner is the identity of the record in `recorder.CURRENT`.
        """
        entry = (owner, value)
        present = self._entries.setdefault(request_id, entry)
        if present is not entry:
            if isinstance(present, tuple):
                present = self._entries[request_id] = dict((present,))
            present[owner] = value
        if alone:
            _CALL.set(owner)

    def remove(self, request_id: str, owner: object) -> None:
        """Remove the entry of one request, if it is there."""
        entry = self._entries.get(request_id)
        if isinstance(entry, dict):
            entry.pop(owner, None)
            if entry:
                return
        elif entry is None or entry[0] != owner:
            return
        del self._entries[request_id]

    def get(self, request_id: str) -> T | None:
        """Return the entry of this id, of the present task's request where there are several; else `None`."""
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        if isinstance(entry, tuple):
            return entry[1]
        if len(entry) == 1:
            return next(iter(entry.values()))
        record = CURRENT.get()
        return entry.get(_CALL.get() if record is None or record.closed else id(record))


class Collector(Protocol):
    """Collects the states of one running request."""

    states: list[State]


class RequestStates(InFlight[Collector]):
    """Adds each new request state to its request, by the id that `generate` was called with."""

    def added(self, processor: OutputProcessor, arguments: Arguments, error: BaseException | None) -> None:
        """`OutputProcessor.add_request` returned: the state exists now, under the internal id."""
        if error is not None:
            return
        request = arguments.get("request")
        state = processor.request_states.get(request.request_id)
        if state is None:
            return
        offline = OFFLINE.get()
        if offline is not None:
            offline(state)
            return
        found = self._find(request, arguments.get("parent_req"))
        # From 0.15 on the call may be the next piece of an input that is streamed: its state was collected.
        if found is not None and state not in found.states:
            found.states.append(state)

    def _find(self, request: EngineRequest, parent: ParentRequest | None) -> Collector | None:
        # From 0.14 on the id inside the engine is another one, and the caller's is kept beside it.
        for holder in (request,) if parent is None else (parent, request):
            for name in ("external_req_id", "request_id"):
                found = self.get(getattr(holder, name, None) or "")
                if found is not None:
                    return found
        return None


# In one call: it is made on the path of a request.
_kept_of = attrgetter(*EndedState._fields)
_new = tuple.__new__  # a third of what the constructor takes


def ended_states(states: Sequence[State]) -> list[State]:
    """What is kept of these states."""
    return [_new(EndedState, _kept_of(state)) for state in states]


def let_go_of(states: list[State], start: int = 0) -> None:
    """Replace the states from `start` on by what is kept of them."""
    for index, state in enumerate(states[start:] if start else states, start):
        states[index] = _new(EndedState, _kept_of(state))


def read_choice(state: State, finish_reason: str | None, *, completed: bool) -> Choice:
    """What the engine knows of one choice, derived from its stamps as its own statistics derive it."""
    choice = Choice(finish_reason=finish_reason, completed=completed)
    choice.counted_input_tokens = 0 if state.is_prefilling else state.prompt_len
    choice.cached_tokens = None if state.is_prefilling else state.num_cached_tokens
    stats = state.stats
    if stats is None:
        return choice
    choice.output_tokens = stats.num_generation_tokens
    choice.preemptions = getattr(stats, "num_preemptions", None)  # from 0.30 on
    if stats.queued_ts and stats.scheduled_ts:
        choice.queue_s = stats.scheduled_ts - stats.queued_ts
    if stats.first_token_ts and not state.is_prefilling:
        choice.first_token_s = stats.first_token_latency
        choice.decode_s = stats.last_token_ts - stats.first_token_ts
        if stats.scheduled_ts:
            choice.prefill_s = stats.first_token_ts - stats.scheduled_ts
    return choice


def read_progress(states: Sequence[State]) -> Progress | None:
    """
    How far the choices of a running request are, together; `None` where vLLM keeps no statistics.

    Safe from any thread: it reads numbers that vLLM's own loop writes, each of them whole. vLLM writes the statistics
    of a first token before it says that the prompt is done.
    """
    prompt = cached = produced = 0
    prefilling = True
    for state in tuple(states):
        if state.stats is None:
            return None
        prompt += state.prompt_len
        if not state.is_prefilling:
            prefilling = False
            cached += state.num_cached_tokens
        produced += state.stats.num_generation_tokens
    first = None if prefilling else first_stats(states)
    if first is None:
        return Progress(prompt or None, None, 0, prefilling=True)
    return Progress(
        prompt,
        cached,
        produced,
        prefilling=False,
        first_token_ns=int((first.arrival_time + first.first_token_latency) * 1e9),
        prefill_s=first.first_token_ts - first.scheduled_ts if first.first_token_ts and first.scheduled_ts else None,
    )


def first_stats(states: Sequence[State]) -> RequestStateStats | None:
    """The statistics of the choice whose first token came first."""
    with_token = [s.stats for s in states if s.stats is not None and s.stats.first_token_latency]
    return min(with_token, key=lambda stats: stats.first_token_latency, default=None)
