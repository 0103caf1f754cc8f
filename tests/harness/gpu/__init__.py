"""Fakes and replays of GPU vendors: a file a vendor, each with `running` and `TRUTH`."""
