"""The destinations of each signal, as the SDK's exporters resolve it from the `OTEL_*` variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from ai_otel.export.loading import exporter_names, otlp_protocol
from ai_otel.inputs.shown import shown

SIGNALS = ("traces", "metrics")

_DEFAULTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}


@dataclass(frozen=True, slots=True)
class Destination:
    """One exporter of one signal."""

    signal: str
    exporter: str
    """`otlp`, or the name of another exporter; the fields below are OTLP's."""
    protocol: str = ""
    endpoint: str = ""
    origin: str = ""
    """The variable that says so, or `default`."""
    secure: bool = False
    headers: str = field(default="", repr=False)
    """As the variable has them; values are secret."""
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    compression: str = "none"
    credentials: str = ""
    """The component that brings credentials."""

    @property
    def header_names(self) -> list[str]:
        """Names only."""
        return [shown(pair.partition("=")[0].strip().lower()) for pair in self.headers.split(",") if pair.strip()]

    @property
    def shown(self) -> str:
        """The endpoint without credentials."""
        return shown(self.endpoint)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; `None` where the endpoint names none."""
        parts = self._parts()
        try:
            port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 443 if self.secure else 80)
        except ValueError:
            return None
        return (parts.hostname, port) if parts.hostname else None

    def _parts(self) -> SplitResult:
        # gRPC also takes `host:port`.
        plain = self.protocol == "grpc" and "://" not in self.endpoint
        return urlsplit(f"//{self.endpoint}" if plain else self.endpoint)


def destinations(otel: Mapping[str, str]) -> Iterator[Destination]:
    """Every exporter that the library makes for its own providers, from variables that `inputs.otel` has checked."""
    for signal in SIGNALS:
        for name in exporter_names(signal, otel):
            if name == "otlp":
                yield _otlp(signal, otel)
            else:
                yield Destination(signal, name)


def _otlp(signal: str, otel: Mapping[str, str]) -> Destination:
    def read(option: str) -> str:
        return (
            otel.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{option}") or otel.get(f"OTEL_EXPORTER_OTLP_{option}") or ""
        )

    protocol = otlp_protocol(signal, otel)
    name = "GRPC" if protocol == "grpc" else "HTTP"
    providers = (f"OTEL_PYTHON_EXPORTER_OTLP_{name}_{each}CREDENTIAL_PROVIDER" for each in ("", f"{signal.upper()}_"))
    endpoint, origin = _endpoint(signal, protocol, otel)
    return Destination(
        signal,
        "otlp",
        protocol,
        endpoint,
        origin,
        secure=_secure(protocol, endpoint, read("INSECURE")),
        headers=read("HEADERS"),
        certificate=read("CERTIFICATE") or None,
        client_key=read("CLIENT_KEY") or None,
        client_certificate=read("CLIENT_CERTIFICATE") or None,
        compression=read("COMPRESSION") or "none",
        credentials=next(filter(None, map(otel.get, providers)), ""),
    )


def _endpoint(signal: str, protocol: str, otel: Mapping[str, str]) -> tuple[str, str]:
    """The whole endpoint. Over HTTP only the general variable has the signal's path added, once."""
    own, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    if otel.get(own):
        return otel[own], own
    base, origin = (otel[general], general) if otel.get(general) else (_DEFAULTS[protocol], "default")
    return (base if protocol == "grpc" else f"{base.removesuffix('/')}/v1/{signal}"), origin


def _secure(protocol: str, endpoint: str, insecure: str) -> bool:
    """Whether the SDK speaks TLS there. gRPC does so wherever nothing says otherwise, without a scheme too."""
    scheme = urlsplit(endpoint).scheme
    if protocol != "grpc" or scheme == "https":
        return scheme == "https"
    return insecure.strip().lower() != "true" if insecure else scheme != "http"
