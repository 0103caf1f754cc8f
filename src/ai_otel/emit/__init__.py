"""Turns closed records into telemetry. With `gpu/observe.py` these are the only users of tracer and meter."""
