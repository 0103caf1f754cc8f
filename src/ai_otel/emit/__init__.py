"""Turns closed records into telemetry. With `gpu/metrics.py` these are the only users of tracer and meter."""
