"""The HTTP edge: what the server's API layer does with a request before, around and after the engine."""
