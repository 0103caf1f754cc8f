"""Service level objectives: what one file asks for, and the Prometheus rules that measure it."""
