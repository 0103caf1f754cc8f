"""All checks of `ai-otel doctor`, in the order of its output."""

from __future__ import annotations

from collections.abc import Iterator

from ai_otel import activation
from ai_otel.doctor import common_metrics, engines, http, packages
from ai_otel.doctor.export.checks import check_export
from ai_otel.doctor.finding import Finding
from ai_otel.doctor.gpus import check_gpus
from ai_otel.doctor.logs import captured_messages
from ai_otel.doctor.sampling import check_sampling
from ai_otel.doctor.server import Server, check_server
from ai_otel.doctor.switch import Configuration, check_switch
from ai_otel.engines import ENGINES


def examine(server: Server | None = None, metrics_url: str | None = None) -> Iterator[Finding]:
    """Yield every finding about this environment, or about a server that runs in it."""
    if server is not None:
        yield from check_server(server)
    configuration = Configuration.read(server.environment, server.pid) if server is not None else Configuration.read()
    otel = configuration.environment.otel
    with captured_messages("ai_otel") as messages:
        found = list(engines.installed_engines({**ENGINES, **activation.third_party_engines()}))
    yield from (engines.broken_adapter(sentence) for sentence in messages)
    names = frozenset(each.name for each in found if isinstance(each, engines.Installed))
    yield from engines.check_engines(found)
    settings = configuration.settings
    wanted = not settings.engines or settings.provider in settings.engines
    yield from http.check_http(on=settings.edge, engines=bool(found), provider=settings.provider, wanted=wanted)
    yield from check_switch(configuration, names)
    yield from check_export(otel, direct=configuration.settings.emitter == "direct")
    if metrics_url is not None:
        yield from common_metrics.check_endpoint(metrics_url)
    else:
        yield from common_metrics.check_contract(names, server.flags if server is not None else None)
    yield from check_gpus(configuration.settings)
    yield from check_sampling(configuration.settings, server)
    yield from packages.check_packages(otel)
