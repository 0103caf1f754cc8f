"""How requests ended, each server's from the source of its that tells most.

Where ai-otel measures a server, or its page has error types on the duration, `gen_ai.server.request.duration` has each
request once, with how it ended. Other pages have counters of what ended and of what was refused. The source is chosen
server by server, so that a fleet of both adds up and nothing is in twice.
"""

from __future__ import annotations

from promql import Queries, first_of


class Outcomes:
    """Series per second, to be summed: `ended`, and of these `finished`, `cancelled` and `errors`."""

    def __init__(self, queries: Queries) -> None:
        contract = queries.contract
        self._queries = queries
        self.duration = contract.metric("GEN_AI_SERVER_REQUEST_DURATION")
        self.counted = contract.metric("AI_OTEL_REQUEST_FINISHED")
        self.refused = contract.metric("AI_OTEL_REQUEST_REJECTED")
        self.error = contract.label("error.type")
        self.reason = contract.label("ai_otel.finish_reason")
        self._failed = contract.value("ai_otel.finish_reason", "error")
        self._cancelled = contract.value("ai_otel.outcome", "cancelled")
        self._engine = queries.engine
        self._silent = contract.silent_about_failures(self.counted)

    @property
    def ended(self) -> str:
        """Everything that ended, refused requests included."""
        counted = f"{self._count()} or ({self._refusals} and on ({self._queries.one_server}) {self._count()})"
        return self._from_either(self._of_a_server_that_tells(self._timed()), counted)

    @property
    def finished(self) -> str:
        """What ended well."""
        counted = self._count(f'{self.error}=""', f'{self.reason}!="{self._failed}"')
        return self._from_either(self._of_a_server_that_tells(self._timed(f'{self.error}=""')), counted)

    @property
    def cancelled(self) -> str:
        """What its client, or somebody in its name, stopped."""
        matcher = f'{self.error}="{self._cancelled}"'
        return self._from_either(self._timed(matcher), self._count(matcher))

    @property
    def errors(self) -> str:
        """
        What failed or was refused; 0 where nothing was.

        A failure has an error type, or only the finish reason `error`. Engines that never tell failures get no 0.
        """
        matcher = f'{self.error}!~"|{self._cancelled}"'
        unnamed = self._count(f'{self.error}=""', f'{self.reason}="{self._failed}"')
        counted = f"{self._count(matcher)} or {unnamed} or {self._refusals}"
        telling = (f'{self._engine}!~"{"|".join(self._silent)}"',) if self._silent else ()
        return f"{self._from_either(self._timed(matcher), counted)} or 0 * {self._count(*telling)}"

    @property
    def _refusals(self) -> str:
        """With a label of their own: a counter that has the same labels must not hide them."""
        return f'label_replace({self._queries.rate(self.refused)}, "outcome", "rejected", "", "")'

    def _timed(self, *where: str) -> str:
        return self._queries.rate(self.duration, *where, suffix="_count")

    def _count(self, *where: str) -> str:
        return self._queries.rate(self.counted, *where)

    def _of_a_server_that_tells(self, timed: str) -> str:
        told = f'{self.error}!=""'
        return f"{timed} and on ({self._queries.one_server}) {self._timed(told)}"

    def _from_either(self, timed: str, counted: str) -> str:
        return first_of((timed, counted), self._queries.one_server)
