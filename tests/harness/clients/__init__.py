"""Clients of the servers under test, and the requests that they send."""
