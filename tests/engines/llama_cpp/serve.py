"""
llama.cpp's own HTTP server, with its metrics endpoint: what `llama-server --metrics` is, out of the `xllamacpp` wheel.

    python serve.py MODEL.gguf PORT SLOTS
"""

import signal
import sys

import xllamacpp

model, port, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = model
params.endpoint_metrics = True
params.hostnames = ["127.0.0.1"]
params.port = port
params.n_parallel = slots
params.n_ctx = slots * 4096
params.n_gpu_layers = 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
# llama.cpp takes the process's signals for itself, and ends nothing but its own loop.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pause()
