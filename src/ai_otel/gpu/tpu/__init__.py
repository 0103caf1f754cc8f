"""Google TPUs by libtpu's metrics service: start at `source.py`."""
