"""Parts of `record_nvml.py`: the calls, the experiments, the load, and the removal of identifiers."""
