"""What `record_nvml.py` is made of: the calls, the experiments, the load, and what is taken out of a recording."""
