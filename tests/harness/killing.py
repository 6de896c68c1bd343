"""Hosts that are killed in the middle of their work, as a crash or a power cut ends them."""

import threading
import time

import pytest
import websocket
from hosting.server import Server


def run_until(server: Server, graph: dict, there) -> None:
    """Run a prompt on a host that is killed (-9) as soon as `there()` is true."""
    done = threading.Event()

    def watch():
        while not done.is_set():
            if there():
                server.kill()
                return
            time.sleep(0.0002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.raises((websocket.WebSocketException, OSError)):
            server.client().run(graph)
    finally:
        done.set()
        thread.join()
