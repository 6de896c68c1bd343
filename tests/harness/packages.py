"""Small wheels, and package indexes that hold them: as folders, and behind a server of their own."""

import contextlib
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import environment


def download_uv(folder: Path) -> Path:
    """The wheel of the pinned uv, from where pip finds it on this machine."""
    options = ["--no-deps", "--only-binary", ":all:", "-q", "-c", str(environment.CONSTRAINTS), "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "uv"], check=True)
    (wheel,) = folder.glob("uv-*.whl")
    return wheel


def write_wheel(folder: Path, project: str, version: str, data: bytes = b"") -> Path:
    """A wheel of one module with `version`, and of `data`."""
    info = f"{project}-{version}.dist-info"
    files = {
        f"{project}/__init__.py": f"version = {version!r}\n",
        f"{project}/data": data,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{project}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_index(folder: Path, *wheels: Path) -> Path:
    """A package index ("simple repository") with copies of `wheels`; returns the folder for --index-url."""
    simple = folder / "simple"
    simple.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        page = simple / wheel.name.partition("-")[0] / "index.html"
        page.parent.mkdir(exist_ok=True)
        shutil.copy(wheel, page.parent)
        with page.open("a") as file:
            file.write(f'<a href="{wheel.name}">{wheel.name}</a><br>\n')
    return simple


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and plays the proxy for any host: the address of a proxied request is complete."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(urlsplit(path).path)

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """The address, as host:port, of an HTTP server; of an HTTPS server with a certificate and its key in one file."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
