"""A saved workflow as data: one numbering, one order, no traces of the session in which it was saved."""

from __future__ import annotations

import itertools
import math
import uuid

from .models import PUBLISHED, WEIGHTS, metadata

FRONTEND_NODES = ("MarkdownNote", "Note")  # belong to no pack
CHANGES = ("randomize", "increment", "decrement")  # of a seed, after a run
LINK_ID, SOURCE, OUTPUT, TARGET, INPUT = range(5)  # places in a saved link


class Broken(Exception):
    """A workflow that cannot be shipped; the message names the part and the reason."""


def renumber(workflow: dict):
    """Number links and groups from 1 and sort the nodes by id. Ids of nodes stay: the API form names them."""
    workflow["nodes"].sort(key=lambda node: node["id"])
    workflow["links"].sort(key=lambda link: (link[TARGET], link[INPUT]))
    numbers = {link[LINK_ID]: number for number, link in enumerate(workflow["links"], 1)}
    for link in workflow["links"]:
        link[LINK_ID] = numbers[link[LINK_ID]]
    for node in workflow["nodes"]:
        for entry in node.get("inputs", []):
            entry["link"] = numbers.get(entry.get("link"))
        for entry in node.get("outputs", []):
            entry["links"] = sorted(numbers[link] for link in entry.get("links") or []) or None
    for number, group in enumerate(workflow["groups"], 1):
        group["id"] = number
    _renumber_reroutes(workflow["extra"], numbers)
    workflow["last_node_id"] = max(node["id"] for node in workflow["nodes"])
    workflow["last_link_id"] = len(numbers)


def _renumber_reroutes(extra: dict, numbers: dict[int, int]):
    """The same for reroutes, by the links that go through them."""
    for extension in extra.get("linkExtensions") or []:
        extension["id"] = numbers[extension["id"]]
    for entry in extra.get("reroutes") or []:
        entry["linkIds"] = sorted(numbers[link] for link in entry["linkIds"])


def clean(workflow: dict, name: str):
    """Remove what depends on who saved the file: view, revision, fractions of a pixel. A seed is not to change after a
    run. Without a saved view the frontend fits the graph into the window that opens it."""
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-storyreel/{name}"))
    workflow["revision"] = 0
    workflow["extra"] = reroutes_in_order(workflow["extra"])
    for node in workflow["nodes"]:
        node["pos"] = [round(value) for value in node["pos"]]
        node["size"] = [math.ceil(value) for value in node["size"]]
        values = node.get("widgets_values", [])
        for place, (before, value) in enumerate(itertools.pairwise(values), 1):
            if value in CHANGES and isinstance(before, int):
                values[place] = "fixed"
    for group in workflow["groups"]:
        group["bounding"] = [round(value) for value in group["bounding"]]


def reroutes_in_order(extra: dict) -> dict:
    """What a saved `extra` says of reroutes, in one order."""
    entries = sorted(extra.get("reroutes") or [], key=lambda entry: entry["id"])
    if not entries:
        return {}
    return {
        "linkExtensions": sorted(extra["linkExtensions"], key=lambda extension: extension["id"]),
        "reroutes": [
            {
                "id": entry["id"],
                **({"parentId": entry["parentId"]} if entry.get("parentId") is not None else {}),
                "pos": [round(value) for value in entry["pos"]],
                "linkIds": sorted(entry["linkIds"]),
            }
            for entry in entries
        ],
    }


def describe(workflow: dict, shipped: set[str], versions: dict[str, str]):
    """Write each node's properties: the pack that it needs, and where its files are published.

    shipped: files that come with the pack. versions: {"comfyui-storyreel" or "comfy-core": version}. Raises Broken.
    """
    for node in workflow["nodes"]:
        if node["type"] in FRONTEND_NODES:
            node["properties"] = {}
            continue
        pack = "comfyui-storyreel" if node["type"].startswith("StoryReel") else "comfy-core"
        node["properties"] = {"Node name for S&R": node["type"], "cnr_id": pack, "ver": versions[pack]}
        values = [value for value in node.get("widgets_values", []) if isinstance(value, str)]
        files = [value for value in values if value.endswith(WEIGHTS) and value not in shipped]
        if unknown := [file for file in files if file not in PUBLISHED]:
            raise Broken(f"{label(node)} names {', '.join(unknown)}: add it to tools/workflows/models.py.")
        if files:
            node["properties"]["models"] = [metadata(file) for file in files]


def label(node: dict) -> str:
    return f"{node.get('title', node['type'])} ({node['id']})"
