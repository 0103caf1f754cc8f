"""Values that come from outside: how they are shown, and what of them the OpenTelemetry SDK gets to read."""
