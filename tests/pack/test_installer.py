"""uv installs what pip would, with pip's settings; pip installs where uv cannot; a failure is one sentence."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import environment
import installer
import pytest
import steps
from harness.packages import download_uv, serve, write_index, write_wheel

pytestmark = pytest.mark.programs

IGNORED = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "PYTHONPATH", "PYTHONHOME")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Wheels of a package `storyreeltiny`: indexes one (1.0), two (2.0) and none, find-links folders three and four."""
    folder = tmp_path_factory.mktemp("shelf")
    for number, name in enumerate(("one", "two", "three", "four"), 1):
        write_wheel(folder / name, "storyreeltiny", f"{number}.0")
    for name in ("one", "two"):
        write_index(folder / name, *(folder / name).glob("*.whl"))
    write_index(folder / "none")
    return folder


@pytest.fixture(scope="module")
def uv_wheel(tmp_path_factory) -> Path:
    return download_uv(tmp_path_factory.mktemp("uv"))


@pytest.fixture(scope="module")
def python(tmp_path_factory, uv_wheel) -> str:
    """The Python of an environment with pip and uv."""
    venv = tmp_path_factory.mktemp("installer") / "venv"
    subprocess.run([environment.BASE_PYTHON, "-m", "venv", str(venv)], check=True)
    interpreter = str(environment.interpreter(venv))
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(uv_wheel)], check=True)
    return interpreter


def settings(folder: Path, text: str, **variables: str) -> dict[str, str]:
    """A process environment in which pip has these settings, and of this machine's at most those of /etc/pip.conf."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(IGNORED) and name.lower() not in PROXIES
    }
    config = folder / "pip.conf"
    config.write_text(text)
    folders = {"PIP_CACHE_DIR": folder / "pip-cache", "UV_CACHE_DIR": folder / "uv-cache", "PIP_CONFIG_FILE": config}
    folders |= dict.fromkeys(("HOME", "APPDATA", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"), folder / "home")
    return kept | {name: str(path) for name, path in folders.items()} | variables


def installed(info: Path) -> tuple[str, str]:
    return re.search(r"-(.+)\.dist-info", info.name)[1], (info / "INSTALLER").read_text().strip()


def install(command: list[str], environ: dict[str, str], target: Path) -> tuple[str, str]:
    """(version of storyreeltiny, installer that left its name)."""
    command = [*command, "--target", str(target), "storyreeltiny"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    (info,) = target.glob("storyreeltiny-*.dist-info")
    return installed(info)


def check_both(python: str, environ: dict[str, str], folder: Path, version: str):
    """pip and uv install the same `version` of storyreeltiny in this process environment."""
    uv, variables = installer.uv_install(python, environ)
    assert install([python, "-m", "pip", "install"], environ, folder / "by pip") == (version, "pip")
    assert install(uv, environ | variables, folder / "by uv") == (version, "uv")


ONE, TWO, NONE = ("{shelf}/" + name + "/simple" for name in ("one", "two", "none"))
SETTINGS = {  # pip.conf, variables, the version of storyreeltiny that they lead to
    "index": (f"[global]\nindex-url = {ONE}", {}, "1.0"),
    "extra indexes": (f"[global]\nindex-url = {NONE}\nextra-index-url = {ONE}\n  {TWO}", {}, "2.0"),
    "the best of all": (f"[global]\nindex-url = {ONE}\nfind-links = {{links}}/three {{links}}/four", {}, "4.0"),
    "no index": ("[global]\nno-index = yes\nfind-links = {links}/three", {}, "3.0"),
    "no-index = no": (f"[global]\nindex-url = {ONE}\nno-index = no\n", {}, "1.0"),
    "constraint": (f"[global]\nindex-url = {ONE}\nextra-index-url = {TWO}\nconstraint = {{pins}}", {}, "1.0"),
    "section of install": (f"[global]\nindex-url = {ONE}\n[install]\nindex-url = {TWO}", {}, "2.0"),
    "another section": (f"[global]\nindex-url = {ONE}\n[download]\nindex-url = {TWO}\nno-index = yes", {}, "1.0"),
    "variable": (f"[global]\nindex-url = {ONE}\n", {"PIP_INDEX_URL": TWO}, "2.0"),
    "empty variable": (f"[global]\nindex-url = {ONE}\n", {"PIP_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1"}, "1.0"),
    "only what is printed": (f"[global]\nindex-url = {ONE}\nquiet = 3\nprogress-bar = off", {}, "1.0"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_uv_follows_the_settings_of_pip(python, shelf, tmp_path, name):
    text, variables, version = SETTINGS[name]
    pins = tmp_path / "pins.txt"
    pins.write_text("storyreeltiny<2")
    places = {"shelf": shelf.as_uri(), "links": shelf, "pins": pins}
    variables = {variable: value.format(**places) for variable, value in variables.items()}
    check_both(python, settings(tmp_path, text.format(**places), **variables), tmp_path, version)


def test_settings_that_pip_does_not_list_are_not_taken_for_none(python, tmp_path):
    with pytest.raises(installer.NotForUv, match="pip does not list its settings"):
        installer.uv_install(python, settings(tmp_path, "[global]\nquiet = 9"))


def test_uv_uses_the_proxy_of_pip(python, shelf, tmp_path):
    with serve(shelf) as address:
        text = f"[global]\nindex-url = http://index.invalid/one/simple\ntrusted-host = index.invalid\nproxy = {address}"
        check_both(python, settings(tmp_path, text), tmp_path, "1.0")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
@pytest.mark.parametrize("trust", ["cert = {}", "trusted-host = 127.0.0.1", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_uv_trusts_the_hosts_that_pip_trusts(python, shelf, tmp_path, trust):
    subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    certificate, both = tmp_path / "cert.pem", tmp_path / "both.pem"
    both.write_text((tmp_path / "key.pem").read_text() + certificate.read_text())
    variables = {trust: str(certificate)} if trust.isupper() else {}
    with serve(shelf, both) as address:
        text = f"[global]\nindex-url = https://{address}/one/simple\nretries = 0\n"
        uv, more = installer.uv_install(python, environ := settings(tmp_path, text))
        refused = subprocess.run([*uv, "storyreeltiny"], env=environ | more, capture_output=True, text=True)
        assert refused.returncode and "certificate" in refused.stderr
        text += "" if variables else trust.format(certificate)
        check_both(python, settings(tmp_path, text, **variables), tmp_path, "1.0")


def test_uv_waits_as_long_as_pip(python, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        environ = settings(tmp_path, f"[global]\nindex-url = {address}\ntimeout = 1.5\nretries = 0\n")
        uv, variables = installer.uv_install(python, environ)
        started = time.monotonic()
        done = subprocess.run([*uv, "storyreeltiny"], env=environ | variables, capture_output=True, text=True)
        assert done.returncode and "timed out" in done.stderr
        assert 1.5 <= time.monotonic() - started < 25  # without the settings: 30 s, four times


def test_uv_compiles_modules_where_python_may_not(python, shelf, tmp_path):
    environ = settings(tmp_path, f"[global]\nindex-url = {(shelf / 'one' / 'simple').as_uri()}")
    for value, compiled in (("", 0), ("1", 1)):
        environ["PYTHONDONTWRITEBYTECODE"] = value
        uv, variables = installer.uv_install(python, environ)
        install(uv, environ | variables, tmp_path / f"target{value}")
        assert len(list((tmp_path / f"target{value}").rglob("*.pyc"))) == compiled


def create(folder: Path, environ: dict[str, str], capsys, monkeypatch) -> tuple[str, str, str]:
    """Install storyreeltiny into a new environment as set-up does: (version, installer, what was printed)."""
    for name in list(os.environ):
        if name not in environ:
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(steps, "LOG", folder / "setup.log")
    pins = folder / "pins.txt"
    pins.write_text(environment.CONSTRAINTS.read_text() + "storyreeltiny<2\n")
    environment._create(folder / "venv", pins)("storyreeltiny", "storyreeltiny")
    (info,) = (folder / "venv").rglob("storyreeltiny-*.dist-info")
    return *installed(info), capsys.readouterr().out


def test_set_up_installs_by_uv(shelf, uv_wheel, tmp_path, capsys, monkeypatch):
    one, two = ((shelf / name / "simple").as_uri() for name in ("one", "two"))
    text = f"[global]\nindex-url = {one}\nextra-index-url = {two}\nfind-links = {uv_wheel.parent}"
    environ = settings(tmp_path, text)
    version, name, printed = create(tmp_path, environ, capsys, monkeypatch)
    assert (version, name) == ("1.0", "uv") and "note" not in printed


@pytest.mark.parametrize("why", ["no uv", "a setting"])
def test_pip_installs_where_uv_cannot(shelf, uv_wheel, tmp_path, capsys, monkeypatch, why):
    text = f"[global]\nindex-url = {(shelf / 'one' / 'simple').as_uri()}\n"
    if why == "a setting":
        text += f"find-links = {uv_wheel.parent}\nprefer-binary = true\n"
    version, name, printed = create(tmp_path, settings(tmp_path, text), capsys, monkeypatch)
    assert (version, name) == ("1.0", "pip")
    (note,) = [line for line in printed.splitlines() if "note" in line]
    reason = (
        "uv: the package index has no pinned version" if why == "no uv" else "uv does not have pip's setting prefer-"
    )
    assert note.startswith(f"  note: pip installs the packages, which takes longer: {reason}")


FAILURES = {
    "no network": ("-i http://127.0.0.1:9/simple storyreeltiny", "the package index cannot be reached (no network?)"),
    "no such host": (
        "-i http://index.invalid/simple storyreeltiny",
        "the package index cannot be reached (no network?)",
    ),
    "no version": (
        "-i {one} storyreeltiny==7",
        "the package index has no pinned version for this Python, or cannot be reached",
    ),
    "another archive": (
        "-i {one} --require-hashes -r {hashes}",
        "the downloaded archive is not the pinned one (its SHA-256 differs)",
    ),
    "other": ("-i {one} -r {folder}/missing.txt", "File not found: {folder}/missing.txt"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_of_uv_is_one_sentence(python, shelf, tmp_path, monkeypatch, name):
    monkeypatch.setattr(steps, "LOG", tmp_path / "setup.log")
    arguments, reason = FAILURES[name]
    (tmp_path / "hashes.txt").write_text(f"storyreeltiny==1.0 --hash=sha256:{'0' * 64}")
    places = {"one": (shelf / "one" / "simple").as_uri(), "hashes": tmp_path / "hashes.txt", "folder": tmp_path}
    uv, variables = installer.uv_install(python, settings(tmp_path, "[global]\nretries = 0"))
    with pytest.raises(steps.SetupError) as caught:
        steps.run("storyreeltiny", [*uv, *(part.format(**places) for part in arguments.split())], **variables)
    assert (
        str(caught.value) == f"storyreeltiny: {reason.format(**places)}; the details are in {tmp_path / 'setup.log'}."
    )


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_full_disk_is_reported(python, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip(f"mounts a small disk, which takes root: {done.stderr.decode().strip()}")
    try:
        monkeypatch.setattr(steps, "LOG", tmp_path / "setup.log")
        wheel = write_wheel(tmp_path / "wheels", "storyreeltiny", "1.0", os.urandom(400_000))
        uv, variables = installer.uv_install(python, settings(tmp_path, "[global]\nno-index = true"))
        with pytest.raises(steps.SetupError, match="^storyreeltiny: the disk is full; the details are in"):
            steps.run("storyreeltiny", [*uv, "--target", str(disk / "target"), str(wheel)], **variables)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
