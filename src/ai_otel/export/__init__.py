"""Limits of what is exported, and the exporters of ai-otel's own providers: split, isolated, counted."""
