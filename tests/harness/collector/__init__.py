"""The real Collector: its process, its tiers, the backends behind it and what is sent to break it."""
