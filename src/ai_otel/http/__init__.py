"""The HTTP middleware: what the API layer does with a request before, around and after the engine."""
