"""Telemetry that tests send, receive and compare."""
