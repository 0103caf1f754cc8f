"""How we listen to code that is not ours: where (`point`), attaching and undoing (`patch`), safely (`guard`)."""
