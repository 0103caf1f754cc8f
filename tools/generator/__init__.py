"""Reads the contract in src/ai_otel/schema, checks it, and writes what is generated from it."""
