"""What the end-to-end tiers share: real servers, a client that keeps books, and a place where telemetry arrives."""
