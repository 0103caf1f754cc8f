"""Shared by the end-to-end tiers: real servers, clients, and receivers of telemetry."""
