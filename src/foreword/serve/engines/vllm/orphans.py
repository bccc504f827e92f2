"""A process that ends with the server that made it, even where the server was killed. Knows nothing of vLLM."""

import multiprocessing
import os
import threading


def end_with_the_server() -> None:
    """Called in a process of vLLM's, which would go on for good, and keep the GPU's memory from the next server."""
    server = multiprocessing.parent_process()
    if server is None:  # something else made this process, and looks after it
        return

    def wait() -> None:
        server.join()
        os._exit(1)

    threading.Thread(target=wait, name="foreword-orphans", daemon=True).start()
