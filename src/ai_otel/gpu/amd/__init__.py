"""AMD GPUs by AMD SMI: start at `source.py`."""
