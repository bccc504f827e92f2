"""vLLM behind the engine's seam. Nothing here is imported before `--engine vllm` asks for it: vLLM is an extra."""

import os

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers what runs here
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked one would hold on to the server's socket
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # to cores that another process may have
}
"""What is set unless it is set already, before vLLM is imported and reads it."""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
