"""Intel GPUs by Level Zero Sysman: start at `source.py`."""
