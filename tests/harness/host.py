"""ComfyUI inside the test process: its own loader, validator and executor, started once, without HTTP.

The host lives on an event loop in a thread of its own, as the server's prompt worker does, so that a test may also hold
a browser, whose driver keeps the main thread's loop.
"""

import asyncio
import contextlib
import functools
import logging
import os
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosting.folders import host_source, link


@dataclass(frozen=True)
class Run:
    """The results of a prompt: `outputs` {node id: ui dict}, `events` [(name, data)], `values` {node id: tuple}."""

    outputs: dict[str, dict]
    events: list[tuple[str, Any]]
    values: dict[str, tuple]


class InvalidPrompt(ValueError):
    """The host refused a prompt; `node_errors` is its answer, as the HTTP API would send it."""

    def __init__(self, error: dict, node_errors: dict):
        details = [
            f"node {node} ({entry['class_type']}): {e['message']}: {e['details']}"
            for node, entry in node_errors.items()
            for e in entry["errors"]
        ]
        super().__init__("; ".join(details) or f"{error['message']}: {error['details']}")
        self.error = error
        self.node_errors = node_errors


class Host:
    """A running host.

    nodes: NODE_CLASS_MAPPINGS, the host's and the pack's. base: its base directory. events: all [(name, data)] so far.
    pack: the pack as the host itself loaded it; it is also `storyreel`, so classes imported from there are the same.
    """

    running: "Host | None" = None

    def __init__(self, base: Path, pack_folder: Path):
        Host.running = self
        self.base = base
        self.events: list[tuple[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="host", daemon=True).start()
        self._import_host()
        self._wait(self._start())
        self._load_pack(pack_folder)

    @property
    def pack(self):
        return sys.modules["storyreel"]

    def _wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _import_host(self):
        sys.path.insert(0, str(host_source()))
        import torch
        from comfy.cli_args import args  # reads no command line unless asked to

        args.cpu = not torch.cuda.is_available()
        args.use_pytorch_cross_attention = True
        args.disable_api_nodes = True
        args.base_directory = str(self.base)
        args.database_url = "sqlite:///:memory:"
        import utils.extra_config  # noqa: F401 - as main.py does, since `nodes` lets comfy/utils.py come before this one

    async def _start(self):
        import comfy.utils
        import nodes
        import server

        self._server = server.PromptServer(asyncio.get_running_loop())
        self._server.send_sync = lambda event, data, sid=None: self.events.append((event, data))

        def progress(value, total, preview, prompt_id=None, node_id=None):
            import comfy.model_management

            comfy.model_management.throw_exception_if_processing_interrupted()
            self.events.append(("progress", {"value": value, "max": total, "node": node_id}))

        comfy.utils.set_progress_bar_global_hook(progress)
        await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
        self.nodes = nodes.NODE_CLASS_MAPPINGS

    def _load_pack(self, folder: Path):
        """Let the host load the pack by the relative path `storyreel`: the host names a module by the path it is given,
        so what it loads is the module that the tests import."""
        import nodes

        here = self.base / "custom_nodes" / "storyreel"
        link(here, folder)
        log = _Lines()
        logging.getLogger().addHandler(log)
        before = os.getcwd()
        os.chdir(here.parent)
        try:
            self.pack_loaded = self._wait(nodes.load_custom_node("storyreel"))
        finally:
            os.chdir(before)
            logging.getLogger().removeHandler(log)
        self.pack_log = "\n".join(log.lines)
        for name, module in list(sys.modules.items()):  # the parent is new, modules imported by core tests are not
            parent, _, child = name.rpartition(".")
            if parent == "storyreel":
                setattr(self.pack, child, module)

    def validate(self, prompt: dict) -> list[str]:
        """Check a prompt in API form as POST /prompt does; returns the ids of its output nodes or raises InvalidPrompt.

        Unlike the server, which drops a bad output and runs the rest, any node error is an error here.
        """
        import execution

        ok, error, outputs, node_errors = self._wait(execution.validate_prompt("validate", prompt, None))
        if not ok or node_errors:
            if not self.pack_loaded and "StoryReel" in str(error):
                raise RuntimeError(f"the host could not load the pack:\n{self.pack_log}")
            raise InvalidPrompt(error or {}, node_errors)
        return outputs

    def run(self, prompt: dict, cached: bool = False) -> Run:
        """Validate and execute a prompt in API form. Raises InvalidPrompt, or RuntimeError with the node's own message.

        Every run computes everything again; `cached=True` keeps the host's cache from the last such run, as its queue
        does. `values` holds each executed node's outputs (tensors and the like; a list output stays a list).
        """
        import execution

        outputs = self.validate(prompt)
        executor = self._cached_executor if cached else self._executor()
        first = len(self.events)
        self._wait(executor.execute_async(prompt, uuid.uuid4().hex, {"client_id": "tests"}, outputs))
        events = self.events[first:]
        if not executor.success:
            for name, data in events:
                if name == "execution_error":
                    where = f"node {data['node_id']} ({data['node_type']})"
                    raise RuntimeError(f"{where}: {data['exception_type']}: {data['exception_message'].strip()}")
            raise InterruptedError("the host was interrupted")

        async def collect():
            values = {}
            for node in prompt:
                entry = await executor.caches.outputs.get(node)
                if isinstance(entry, execution.CacheEntry):
                    cls = self.nodes[prompt[node]["class_type"]]
                    lists = getattr(cls, "OUTPUT_IS_LIST", (False,) * len(entry.outputs))
                    values[node] = tuple(v if many else v[0] for v, many in zip(entry.outputs, lists, strict=True))
            return values

        return Run(executor.history_result["outputs"], events, self._wait(collect()))

    def _executor(self):
        import execution

        return execution.PromptExecutor(
            self._server,
            cache_type=execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0},
        )

    @functools.cached_property
    def _cached_executor(self):
        return self._executor()

    @contextlib.contextmanager
    def node(self, cls):
        """Register a test's own node class temporarily."""
        name = cls.GET_SCHEMA().node_id if hasattr(cls, "GET_SCHEMA") else cls.__name__
        self.nodes[name] = cls
        try:
            yield name
        finally:
            del self.nodes[name]

    @contextlib.contextmanager
    def checkpoints_of(self, folder: Path):
        """List the files of one folder, and no others, as checkpoints temporarily."""
        import folder_paths

        known, name = folder_paths.folder_names_and_paths, "checkpoints"
        before = known[name]
        known[name] = [str(folder)], before[1]
        folder_paths.filename_list_cache.pop(name, None)
        try:
            yield
        finally:
            known[name] = before
            folder_paths.filename_list_cache.pop(name, None)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one host a run
    def _checkpoint(self, name: str, whole: bool):
        import comfy.sd
        import folder_paths

        path = folder_paths.get_full_path_or_raise("checkpoints", name)
        return comfy.sd.load_checkpoint_guess_config(path, output_vae=whole, output_clip=whole)[:3]

    def load_checkpoint(self, name: str):
        """(model, clip, vae) of a file in models/checkpoints: new clones in each call, over shared weights."""
        model, clip, vae = self._checkpoint(Path(name).name, whole=True)
        return model.clone(), clip.clone() if clip is not None else None, vae

    def load_model(self, name: str):
        """The MODEL alone, for tests that need no encoders: those are most of a checkpoint."""
        return self._checkpoint(Path(name).name, whole=False)[0].clone()

    def let_go(self):
        """Drop the models that are kept for the next test."""
        Host._checkpoint.cache_clear()
        self.__dict__.pop("_cached_executor", None)

    def interrupt(self):
        """Interrupt, as the Cancel button does."""
        import nodes

        nodes.interrupt_processing()

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())
