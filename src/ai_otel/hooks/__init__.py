"""Hooks in the code of engines and servers: declared (`point`), attached and undone (`patch`), guarded (`guard`)."""
