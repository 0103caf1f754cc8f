"""Telemetry written as OTLP without the SDK's objects, for a small part of their cost. Same API, same result."""
