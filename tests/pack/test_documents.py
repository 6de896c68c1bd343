"""The documents: every link has a target, every figure was measured, and the README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += [ROOT / "models" / "storyworld" / "README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
INTERVAL = re.compile(r"[\d.]+ \([\d.]+ to [\d.]+\)")


def broken_links(path: Path) -> list[str]:
    """Links to missing files."""
    links = (link or image for link, image in LINK.findall(path.read_text(encoding="utf-8")))
    local = (target.partition("#")[0] for target in links if "://" not in target)
    return [target for target in local if target and not (path.parent / target).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path):
    assert broken_links(path) == []


def test_a_broken_link_is_reported(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('[here](page.md) [gone](gone.md#part) <img src="gone.png"> [web](https://example.com)')
    assert broken_links(page) == ["gone.md", "gone.png"]


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 12_000


def test_the_readme_shows_measured_figures():
    """Each figure of its results is in a table of docs/benchmarks.md, which the measuring commands fill."""
    results = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Results")[2].partition("## ")[0]
    cells = {cell.strip() for line in results.splitlines() if line.startswith("|") for cell in line.split("|")}
    figures = {cell for cell in cells if INTERVAL.fullmatch(cell)}
    tables = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    measured = {cell.strip() for line in tables if line.startswith("|") for cell in line.split("|")}
    assert len(figures) >= 10 and figures <= measured, figures - measured


def test_images_are_small():
    assert [path.name for path in (ROOT / "docs").rglob("*") if path.is_file() and path.stat().st_size > 300_000] == []


def test_the_documents_name_every_node_and_template(host):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    ours = [cls.GET_SCHEMA() for cls in host.nodes.values() if cls.__module__.startswith("storyreel.")]
    names = [schema.display_name.removesuffix(" (StoryReel)") for schema in ours if not schema.is_dev_only]
    assert names and [name for name in names if name not in listed] == []
    templates = [path.stem for path in (ROOT / "workflows").glob("*.json")]
    assert [name for name in templates if f"`{name}`" not in readme] == []


STEP = re.compile(r"^\| [^|]+ \| (`\w+`(?:, `\w+`)*) \| `([\w/]+\.py)` \|$", re.MULTILINE)


def test_the_journeys_name_functions_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = STEP.findall(page)
    assert len(steps) > 20
    for names, path in steps:
        code = (ROOT / path).read_text(encoding="utf-8")
        missing = [name for name in re.findall(r"\w+", names) if not re.search(rf"^(def|class) {name}\b", code, re.M)]
        assert missing == [], path
    paths = re.findall(r"`((?:core|host|nodes|tests|tools|experiments)/[\w/]+\.py)`", page)
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_pre_commit_runs_the_pinned_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = (ROOT / "tools" / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"rev: v(\S+)", hooks)[1] == re.search(r"^ruff==(\S+)$", pins, re.MULTILINE)[1]
