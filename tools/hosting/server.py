"""A real `main.py` in a process of its own on a free loopback port, and a client for its HTTP and websocket API."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import websocket

from .folders import host_source

START_SECONDS = 300  # 10 on a quiet machine; a loaded one has taken 30 times that
RUN_SECONDS = 600
TEXT, PREVIEW = 3, 4  # kinds of binary frames: a line after its node's id, and an image after JSON that names its node


class Server:
    """A running host over `base` (see `folders.make_base`); a context manager.

    url: its address. log: everything it has written so far. client(): a `Client` of its own.
    """

    def __init__(self, base: Path, *options: str):
        self.base = base
        self.options = options

    def __enter__(self):
        self._log_path = self.base / "host.log"
        for attempt in range(3):  # another process may take the port between the look and the start
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            self._start(port)
            if self._came_up():
                return self
            if "address already in use" not in self.log or attempt == 2:
                break
        self.__exit__()
        raise RuntimeError(f"the host did not start; its log:\n{self.log}")

    def _start(self, port: int):
        command = [sys.executable, "main.py", *host_options(self.base), "--port", str(port), *self.options]
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=host_source(), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def _came_up(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + "/system_stats", timeout=30):
                    return True
            except OSError:
                time.sleep(0.2)
        return False

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def wait(self):
        """Until the host ends by itself."""
        self._process.wait()

    def kill(self):
        """At once, as a crash or the system does when memory is out."""
        self._process.kill()
        self._process.wait()

    def client(self) -> "Client":
        return Client(self.url)

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def host_options(base: Path) -> list[str]:
    """The command line of a host that lives in `base`, talks to nobody and runs on what torch has.

    The environment variable STORYREEL_FRONTEND is the folder of a frontend, in place of the one that is installed.
    """
    import torch

    options = ["--listen", "127.0.0.1", "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    options += ["--disable-auto-launch", "--disable-api-nodes", "--log-stdout", "--use-pytorch-cross-attention"]
    if frontend := os.environ.get("STORYREEL_FRONTEND"):
        options += ["--front-end-root", frontend]
    return options if torch.cuda.is_available() else [*options, "--cpu"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Refused(ValueError):
    """POST /prompt was not answered with 200; `reply` is the host's JSON: {"error": ..., "node_errors": ...}."""

    def __init__(self, status: int, reply: dict):
        super().__init__(f"HTTP {status}: {json.dumps(reply)}")
        self.status = status
        self.reply = reply

    def reasons(self) -> str:
        """What is wrong, without the JSON around it."""
        nodes = self.reply["node_errors"].values()
        details = [f"{e['message']} ({e['details']})" for node in nodes for e in node["errors"]]
        return "; ".join(details) or self.reply["error"]["message"]


@dataclass
class Result:
    """What a queued prompt did.

    status: success, error or interrupted. events: [(type, data)] from the websocket. previews: binary frames, in order.
    outputs: {node id: ui dict}. error: the execution_error's data, if there was one.
    """

    prompt_id: str
    status: str = ""
    events: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)
    error: dict | None = None

    def pictures(self, node: str) -> list[bytes]:
        """The preview images of a node, as files."""
        images = []
        for frame in self.previews:
            kind, length = (int.from_bytes(frame[start : start + 4], "big") for start in (0, 4))
            if kind == PREVIEW and json.loads(frame[8 : 8 + length])["node_id"] == node:
                images.append(frame[8 + length :])
        return images

    @property
    def message(self) -> str:
        """The error in one line, for an assertion to show."""
        if not self.error:
            return self.status
        return "node {node_id} ({node_type}): {exception_type}: {exception_message}".format(**self.error).strip()


class Client:
    """One browser tab's worth of the API: HTTP calls, and a websocket while a prompt runs."""

    def __init__(self, url: str):
        self.url = url
        self.id = uuid.uuid4().hex

    def get(self, path: str, **query: str):
        """GET `path`; JSON is decoded, anything else comes back as bytes."""
        return self._call(path + ("?" + urllib.parse.urlencode(query) if query else ""), None)

    def post(self, path: str, body: dict):
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, data: bytes | None):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"} if data else {})
        with urllib.request.urlopen(request, timeout=RUN_SECONDS) as reply:
            body = reply.read()
            return json.loads(body) if reply.headers.get_content_type() == "application/json" else body

    def object_info(self, node: str | None = None) -> dict:
        return self.get("/object_info" + (f"/{node}" if node else ""))

    def view(self, image: dict) -> bytes:
        """The file behind an entry of a node's `images`."""
        return self.get("/view", **{key: image[key] for key in ("filename", "subfolder", "type")})

    def free(self):
        """Let the host drop all models and results that it keeps, as its menu's button does."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def interrupt(self, prompt_id: str):
        self.post("/interrupt", {"prompt_id": prompt_id})

    def queue(self, prompt: dict, **extra) -> str:
        """POST /prompt; returns the prompt's id. Raises Refused, also where the host would only drop a bad output."""
        try:
            reply = self.post("/prompt", {"prompt": prompt, "client_id": self.id, **extra})
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read())) from None
        if reply["node_errors"]:
            raise Refused(200, reply)
        return reply["prompt_id"]

    def run(self, prompt: dict, on_event=None, seconds: float = RUN_SECONDS, **extra) -> Result:
        """Queue a prompt and follow it to its end; `on_event(type, data, result)` may act in between.

        A line of text that a node shows while it works is an event, too: ("text", {"node": id, "text": line}).
        """
        socket_ = websocket.create_connection(
            f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.id}", timeout=seconds
        )
        try:
            socket_.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            result = Result(self.queue(prompt, **extra))
            deadline = time.monotonic() + seconds
            while not result.status:
                socket_.settimeout(max(deadline - time.monotonic(), 0.001))
                message = socket_.recv()
                if isinstance(message, bytes):
                    result.previews.append(message)
                    if on_event and int.from_bytes(message[:4], "big") == TEXT:
                        on_event("text", _line_of(message), result)
                    continue
                event = json.loads(message)
                kind, data = event["type"], event["data"]
                result.events.append((kind, data))
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    if data["prompt_id"] == result.prompt_id:
                        result.status = kind.removeprefix("execution_")
                        result.error = data if kind == "execution_error" else None
                if on_event:
                    on_event(kind, data, result)
        finally:
            socket_.close()
        result.outputs = self.outputs(result.prompt_id, max(deadline - time.monotonic(), 0))
        return result

    def outputs(self, prompt_id: str, seconds: float = RUN_SECONDS) -> dict[str, dict]:
        """{node id: ui dict} of a prompt that has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:  # the host writes the history after it has announced the end
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                return entry["outputs"]
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} ended, but /history never showed it")


def _line_of(frame: bytes) -> dict[str, str]:
    """The node and the line of a binary frame of text."""
    end = 8 + int.from_bytes(frame[4:8], "big")
    return {"node": frame[8:end].decode(), "text": frame[end:].decode()}
