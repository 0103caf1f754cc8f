"""The node agent: exports every device of a node once, and which container each device is allocated to."""
