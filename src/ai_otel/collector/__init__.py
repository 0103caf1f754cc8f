"""Complete Collector configurations out of the parts in `collector-config/`: `compose.py` joins, `parts.py` finds."""
