"""What the demo shows: a live view while it runs, then the summary. Without a terminal, or with `--plain`, as text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ai_otel.demo.figures import Figures, Percentiles, compare
from ai_otel.demo.load import Load
from ai_otel.demo.sink import ArrivedSpan, Sink

BAR = 36
PLAIN_WIDTH = 100
_STYLES = {"finished": "green", "cancelled": "yellow", "rejected": "yellow", "failed": "red", "abandoned": "red"}


class Screen:
    """Prints; `live` redraws in place where there is a terminal."""

    def __init__(self, *, plain: bool) -> None:
        found = Console()
        self._redraws = found.is_terminal and not plain
        self.console = found if self._redraws else Console(width=PLAIN_WIDTH, no_color=True, highlight=False)

    def say(self, text: str) -> None:
        """One line, at once."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def live(self, load: Load, sink: Sink, seconds: float) -> Iterator[None]:
        """Show the load while the block runs."""
        started = time.monotonic()

        def view() -> RenderableType:
            return live_view(load, sink, min(time.monotonic() - started, seconds), seconds)

        if not self._redraws:
            yield
            return
        with Live(get_renderable=view, console=self.console, refresh_per_second=5, transient=True):
            yield

    def summary(self, figures: Figures, span: ArrivedSpan | None, sink: Sink) -> None:
        """Print the example, the tables and the checks."""
        print_ = self.console.print
        if span is not None:
            print_()
            print_("One request, as it arrived:")
            print_(trace_tree(span, sink.children(span)))
        print_()
        print_(latency_table(figures))
        print_()
        print_(outcome_table(figures))
        print_()
        for line in checks(figures):
            print_(line, soft_wrap=True)


def live_view(load: Load, sink: Sink, elapsed: float, seconds: float) -> RenderableType:
    """The counts so far: by kind of request, and what arrived of them."""
    seen = Counter((call.name, call.outcome) for call in list(load.calls))
    table = Table(box=None, pad_edge=False, title=f"{elapsed:4.0f} s of {seconds:.0f} s", title_justify="left")
    table.add_column("request")
    for name in ("running", *_STYLES):
        table.add_column(name, justify="right")
    for kind in sorted({kind for kind, _ in seen}):
        counts = [seen[kind, outcome] for outcome in (None, *_STYLES)]
        table.add_row(kind, *(str(count) if count else "" for count in counts))
    figures = compare(load.calls, sink, max(elapsed, 0.1))
    arrived = f"{len(sink.spans)} spans, {len(sink.metrics)} metrics arrived; {figures.tokens_per_s:.0f} tokens/s"
    return Group(table, Text(arrived))


def trace_tree(span: ArrivedSpan, children: Sequence[ArrivedSpan]) -> RenderableType:
    """A span and its phases, each with its time and its place in the whole."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row(f"  {span.name}", milliseconds(span.duration_s), bar(span, span), style="bold")
    for number, child in enumerate(children, start=1):
        branch = "└─" if number == len(children) else "├─"
        table.add_row(f"  {branch} {child.name}", milliseconds(child.duration_s), bar(child, span))
    attributes = Table.grid(padding=(0, 2))
    for name, value in sorted(span.attributes.items()):
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        attributes.add_row(f"     {name}", shown, style="dim")
    return Group(table, attributes)


def bar(span: ArrivedSpan, whole: ArrivedSpan) -> str:
    """Where in the whole a span lies."""
    length = max(1, whole.end_ns - whole.start_ns)
    start = round((span.start_ns - whole.start_ns) / length * BAR)
    end = max(start + 1, round((span.end_ns - whole.start_ns) / length * BAR))
    return "·" * start + "█" * (end - start) + "·" * (BAR - end)


def latency_table(figures: Figures) -> RenderableType:
    """Latencies of the requests that finished, from their spans."""
    table = Table(box=None, pad_edge=False)
    table.add_column("latency of finished requests")
    for name in ("p50", "p95", "p99", "requests"):
        table.add_column(name, justify="right")
    for name, found in (("whole request", figures.duration), ("to first token", figures.first_token)):
        if isinstance(found, Percentiles):
            table.add_row(name, *map(milliseconds, (found.p50, found.p95, found.p99)), str(found.count))
    return Group(table, Text(f"{figures.tokens_per_s:.0f} tokens generated per second"))


def outcome_table(figures: Figures) -> RenderableType:
    """How requests ended, from both sides."""
    table = Table(box=None, pad_edge=False)
    table.add_column("outcome")
    table.add_column("as the client saw it", justify="right")
    table.add_column("as the spans say", justify="right")
    for outcome, seen, said in figures.outcomes:
        table.add_row(outcome, str(seen), str(said), style=_STYLES.get(outcome, ""))
    return table


def checks(figures: Figures) -> Iterator[Text]:
    """The client's counts against the telemetry, one line each."""
    yield _check(
        figures.traced == figures.requests and not figures.disagreeing,
        f"{figures.traced} of {figures.requests} requests have their trace, {figures.disagreeing} with another outcome",
    )
    reported, counted = figures.reported, figures.counted
    yield _check(
        reported == counted,
        f"tokens on spans = tokens reported to clients: "
        f"{counted.input} = {reported.input} in, {counted.output} = {reported.output} out",
    )
    if figures.read_before_hang_up:
        yield Text(
            f"  and {figures.produced_for_hang_up} tokens were produced for clients that hung up "
            f"after reading {figures.read_before_hang_up}: known from their spans only"
        )


def _check(holds: bool, text: str) -> Text:
    return Text(f"{'✓' if holds else '✗'} {text}", style="green" if holds else "bold red")


def milliseconds(seconds: float) -> str:
    """A time, short."""
    return f"{seconds * 1e3:.1f} ms"
