"""
The API for a server's own code: one call reports one inference, however it is computed.

    with ai_otel.inference("chat", provider="my_server", model="tiny", input_tokens=12) as request:
        request.first_token()
        request.tokens(output=5)
        request.finish("stop")

It fills the same record as an engine's adapter. Nothing here raises into the application or waits: without
`instrument()` or `AI_OTEL_ENABLED` every call does nothing.
"""

from ai_otel.manual.applications import asgi, wsgi
from ai_otel.manual.carriers import Carrier, attach, carry
from ai_otel.manual.requests import Request, batch, inference

__all__ = ["Carrier", "Request", "asgi", "attach", "batch", "carry", "inference", "wsgi"]
