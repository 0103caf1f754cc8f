"""AWS Trainium and Inferentia by `neuron-monitor`: start at `source.py`."""
