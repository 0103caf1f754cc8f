"""
`ai-otel demo`: a small real engine, a load on it, and the telemetry that comes out. Needs the extra `demo`.

`server.py` is an ordinary model server that knows nothing of ai-otel; everything that the demo shows reaches it over
OTLP, as it would reach any backend.
"""
