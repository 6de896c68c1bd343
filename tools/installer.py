"""uv with pip's settings: it installs several times faster than pip, but reads none of pip's configuration.

A machine finds its package index through pip.conf and PIP_* variables. `pip config list` names all of them, and each is
passed to uv as the flag or variable with the same meaning. Standard library only.
"""

from __future__ import annotations

import ast
import math
import os
import ssl
import subprocess
import sys

ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
FLAGS = {  # setting of pip: flag of uv, once for each value
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
}
SWITCHES = {"no-index": "--no-index"}
NUMBERS = {"timeout": "UV_HTTP_TIMEOUT", "retries": "UV_HTTP_RETRIES"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
# these change what pip prints or asks, not what it installs or from where
IRRELEVANT = """
compile config-file debug disable-pip-version-check exists-action log no-color no-compile no-input
no-python-version-warning no-warn-conflicts no-warn-script-location progress-bar quiet require-virtualenv
root-user-action verbose
""".split()


class NotForUv(Exception):
    """pip has a setting that uv cannot follow; the message names it."""


def pip_settings(python: str, environ: dict[str, str]) -> dict[str, str]:
    """{name: value} of the settings that `pip install` follows when this Python runs it. Raises NotForUv."""
    command = [python, "-m", "pip", "config", "list", "-vvv"]  # the setting quiet would silence the list, too
    environ = environ | {"PIP_NO_INPUT": "1"}
    listed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    if ":env:.no-input='1'" not in listed.splitlines():
        raise NotForUv("pip does not list its settings")
    settings = {}
    for section in ("global.", "install.", ":env:."):  # a later one takes precedence
        for line in listed.splitlines():
            name, _, value = line.removeprefix(section).partition("=")
            if line.startswith(section) and (value := ast.literal_eval(value)):  # pip ignores empty ones
                settings[ALIASES.get(name, name)] = value
    return settings


def _system_has_certificates() -> bool:
    paths = ssl.get_default_verify_paths()
    return sys.platform in ("win32", "darwin") or bool(paths.cafile or paths.capath and os.listdir(paths.capath))


def uv_install(python: str, environ: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """`uv pip install` with pip's settings: the command, and variables for its environment. Raises NotForUv.

    Where several indexes have a package, the best version is taken from any of them, as pip does.
    """
    command = [python, *"-m uv pip install --no-config --no-progress --index-strategy unsafe-best-match".split()]
    command += ["--python", python]
    variables = {}
    if environ.get("PYTHONDONTWRITEBYTECODE"):
        variables["UV_COMPILE_BYTECODE"] = "1"  # else every start of Python would compile every module again
    settings = pip_settings(python, environ)
    cert = settings.pop("cert", None)
    # pip prefers these variables to its own setting
    if cert := environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or cert:
        variables["SSL_CERT_DIR" if os.path.isdir(cert) else "SSL_CERT_FILE"] = os.path.expanduser(cert)
    elif _system_has_certificates():
        variables["UV_SYSTEM_CERTS"] = "1"  # as pip; uv's default is a list of its own
    for name, value in settings.items():
        if name in FLAGS:
            for part in value.split():
                command += [FLAGS[name], os.path.expanduser(part)]
        elif name in SWITCHES:
            if value.lower() in ("1", "true", "t", "yes", "y", "on"):
                command.append(SWITCHES[name])
        elif name in NUMBERS:
            variables[NUMBERS[name]] = str(math.ceil(float(value)))
        elif name == "proxy":
            variables |= dict.fromkeys(PROXIES, value)
        elif name == "no-cache-dir":  # with any value, even "false"
            variables["UV_NO_CACHE"] = "1"
        elif name == "cache-dir":
            variables["UV_CACHE_DIR"] = environ.get("UV_CACHE_DIR") or os.path.join(os.path.expanduser(value), "uv")
        elif name not in IRRELEVANT:
            raise NotForUv(f"uv does not have pip's setting {name}")
    return command, variables
