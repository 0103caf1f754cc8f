"""The style of the dashboards: one function for each kind of panel, and their common variables, links and layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as values, dashboard as model
from names import Contract
from promql import FILTERS, SPLIT, Queries

TAG = "ai-otel"
SOURCE = values.DataSourceRef(type_val="prometheus", uid="${datasource}")

# Grafana's names of units. `si:` scales the number and keeps our word.
SECONDS, SHARE, REQUESTS, TOKENS, EVENTS, NUMBER = "s", "percentunit", "reqps", "si:tok/s", "cps", "short"

# The slowest of the sources decides how short a rate can be: the OpenTelemetry SDK exports once a minute.
PERIODS = ("1m", "30s", "15s", "10s")

# All engines with numbers of requests have at least one of these.
PRESENCE = ("AI_OTEL_REQUEST_RUNNING", "AI_OTEL_REQUEST_FINISHED", "AI_OTEL_REQUEST_TIME")

WIDTH = 24


@dataclass(frozen=True)
class Query:
    """One query of a panel, and how its series are called."""

    expression: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel before it has its place."""

    title: str
    meaning: str
    unit: str
    queries: Sequence[Query]
    thresholds: Mapping[float, str] = field(default_factory=dict)
    """From which value on which colour; shares only, because what is slow or much is each service's own affair."""
    tile: bool = False
    stacked: bool = False

    def description(self, contract: Contract) -> str:
        """What it shows, the exact metrics, and who has them."""
        lines = [self.meaning]
        for metric in contract.metrics_in(query.expression for query in self.queries):
            says = " ".join(filter(None, (metric.definition.brief, metric.definition.note)))
            lines.append(f"`{metric.name}` (`{metric.prometheus}`): {says} From: {'; '.join(metric.sources)}.")
        return "\n\n".join(lines) + "\n\nNo data: no chosen engine has the metric, or nothing has happened yet."

    def build(self, contract: Contract, number: int, place: model.GridPos) -> stat.Panel | timeseries.Panel:
        """The panel at its place."""
        panel = self._tile() if self.tile else self._graph()
        for place_in_alphabet, query in enumerate(self.queries):
            panel.with_target(_target(query, chr(ord("A") + place_in_alphabet)))
        steps = [model.Threshold(value=value, color=color) for value, color in self.thresholds.items()]
        base = model.Threshold(value=None, color="green" if steps else "blue")
        return (
            panel.id(number)
            .title(self.title)
            .description(self.description(contract))
            .datasource(SOURCE)
            .grid_pos(place)
            .unit(self.unit)
            .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps([base, *steps]))
        )

    def _tile(self) -> stat.Panel:
        return (
            stat.Panel()
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .graph_mode(values.BigValueGraphMode.AREA)
            .color_mode(values.BigValueColorMode.VALUE)
            .text_mode(values.BigValueTextMode.VALUE_AND_NAME)
            .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        )

    def _graph(self) -> timeseries.Panel:
        stacking = values.StackingMode.NORMAL if self.stacked else values.StackingMode.NONE
        return (
            timeseries.Panel()
            .legend(
                common.VizLegendOptions()
                .show_legend(True)
                .display_mode(values.LegendDisplayMode.TABLE)
                .placement(values.LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "max"])
            )
            .tooltip(common.VizTooltipOptions().mode(values.TooltipDisplayMode.MULTI).sort(values.SortOrder.DESCENDING))
            .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
            .stacking(common.StackingConfig().mode(stacking).group("A"))
            .fill_opacity(30 if self.stacked else 8)
            .line_width(1)
            .min(0)
            .show_points(values.VisibilityMode.AUTO)
            .span_nulls(False)
        )


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .expr(query.expression)
        .legend_format(query.legend)
        .interval("$period")
        .range()
        .exemplar(query.exemplars)
        .ref_id(letter)
    )


@dataclass(frozen=True)
class Row:
    """Panels side by side under one heading."""

    title: str
    height: int
    panels: Sequence[Panel]
    per_line: int = 3


def build(title: str, uid: str, about: str, queries: Queries, rows: Sequence[Row]) -> model.Dashboard:
    """The whole dashboard; every panel has its place and its number from its place in `rows`."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(f"{about} Generated by collector-config/dashboards/src/build.py. Do not edit.")
        .tags([TAG])
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(_siblings())
        .variables(list(variables(queries)))
    )
    number, top = 0, 0
    for row in rows:
        number += 1
        made.with_row(dashboard.Row(row.title).id(number).grid_pos(model.GridPos(x=0, y=top, w=WIDTH, h=1)))
        top += 1
        width = WIDTH // row.per_line
        for at, panel in enumerate(row.panels):
            number += 1
            line, column = divmod(at, row.per_line)
            place = model.GridPos(x=column * width, y=top + line * row.height, w=width, h=row.height)
            made.with_panel(panel.build(queries.contract, number, place))
        top += -(-len(row.panels) // row.per_line) * row.height
    whole = made.build()
    for link in whole.links or ():
        # Beside the variables, where one sees it: the SDK's default hides it in a menu.
        link.placement = None  # type: ignore[assignment]
    return whole


def _siblings() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("ai-otel")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .tooltip("The other dashboards, with the same choice and time")
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )


# ---------------------------------------------------------------- variables


Variable = dashboard.DatasourceVariable | dashboard.QueryVariable | dashboard.CustomVariable


def variables(queries: Queries) -> Iterator[Variable]:
    """What every dashboard lets one choose; each list is narrowed by the choices before it."""
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    present = "|".join(queries.metric(constant).count for constant in PRESENCE)
    chosen = [f'__name__=~"{present}"']
    for name, key in FILTERS.items():
        label = queries.label(key)
        yield _choice(name, f"label_values({{{', '.join(chosen)}}}, {label})")
        chosen.append(f'{label}=~"${name}"')
    yield _custom(SPLIT, "Split by", queries.splits, "engine, model").description(
        "How finely the panels below the first row separate series. The engine is always among it."
    )
    yield _custom("period", "Slowest export", {period: period for period in PERIODS}, PERIODS[0]).description(
        "The longest time between two points of one series. Rates reach over four of them."
    )


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"qryType": 1, "query": query, "refId": f"variable-{name}"})
        .definition(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _custom(name: str, label: str, choices: Mapping[str, str], default: str) -> dashboard.CustomVariable:
    def option(text: str) -> model.VariableOption:
        return model.VariableOption(selected=text == default, text=text, value=choices[text])

    def written(text: str) -> str:
        pair = text if choices[text] == text else f"{text} : {choices[text]}"
        return pair.replace(",", "\\,")

    return (
        dashboard.CustomVariable(name)
        .label(label)
        .values(", ".join(map(written, choices)))
        .options([option(text) for text in choices])
        .current(option(default))
    )
