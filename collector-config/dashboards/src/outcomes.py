"""How requests ended, from the most detailed source of each server.

`gen_ai.server.request.duration` has each request once, with its outcome, if ai-otel measures the server or its metrics
endpoint has error types on the duration. Other endpoints have counters of finished and of rejected requests. The source
is chosen for each server, so that a mixed fleet adds up and nothing is counted twice.
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
        return self._from_either(self._with_error_types(self._timed()), counted)

    @property
    def finished(self) -> str:
        """What ended well."""
        counted = self._count(f'{self.error}=""', f'{self.reason}!="{self._failed}"')
        return self._from_either(self._with_error_types(self._timed(f'{self.error}=""')), counted)

    @property
    def cancelled(self) -> str:
        """Requests that the client, or an abort on its behalf, stopped."""
        matcher = f'{self.error}="{self._cancelled}"'
        return self._from_either(self._timed(matcher), self._count(matcher))

    @property
    def errors(self) -> str:
        """
        What failed or was refused; 0 where nothing was.

        A failure has an error type, or only the finish reason `error`. Engines that never report failures get no 0.
        """
        matcher = f'{self.error}!~"|{self._cancelled}"'
        unnamed = self._count(f'{self.error}=""', f'{self.reason}="{self._failed}"')
        counted = f"{self._count(matcher)} or {unnamed} or {self._refusals}"
        reporting = (f'{self._engine}!~"{"|".join(self._silent)}"',) if self._silent else ()
        return f"{self._from_either(self._timed(matcher), counted)} or 0 * {self._count(*reporting)}"

    @property
    def _refusals(self) -> str:
        """With a label of their own: a counter that has the same labels must not hide them."""
        return f'label_replace({self._queries.rate(self.refused)}, "outcome", "rejected", "", "")'

    def _timed(self, *where: str) -> str:
        return self._queries.rate(self.duration, *where, suffix="_count")

    def _count(self, *where: str) -> str:
        return self._queries.rate(self.counted, *where)

    def _with_error_types(self, timed: str) -> str:
        errors = f'{self.error}!=""'
        return f"{timed} and on ({self._queries.one_server}) {self._timed(errors)}"

    def _from_either(self, timed: str, counted: str) -> str:
        return first_of((timed, counted), self._queries.one_server)
