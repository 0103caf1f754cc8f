"""Whether telemetry arrives: where it goes, how far it gets, and what an error on the way means."""
