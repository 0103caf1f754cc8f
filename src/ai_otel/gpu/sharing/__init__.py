"""Processes of one host that share devices: which one samples, and which ones serve requests on a device."""
