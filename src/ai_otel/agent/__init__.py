"""The node agent: the values of every device of a node, each once, and which container each device is allocated to."""
