"""A real headless browser before a real server: Debian's chromium, driven by Playwright."""

import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

# chromium's own calls home are noise here; it runs as root in most containers, where its sandbox cannot
ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
# The mask over a page that starts leaves at the end of an animation, so that it stayed forever if `STILL` came before
READY = """() => window.app?.extensionManager && window.app?.graph && window.app?.vueAppReady
  && !document.querySelector('.p-blockui-mask')"""
READY_SECONDS = 180
POLLING = 200  # milliseconds; by default Playwright asks before every frame, which makes the page draw all the time
# Chromium draws in software here, so whatever moves costs more than what it shows
STILL = "*, *::before, *::after { animation: none !important; transition: none !important; }"
# Playwright's own add_style_tag fails where the page asks for a model's size meanwhile: see `NOISE`
ADD_STYLE = "css => document.head.append(Object.assign(document.createElement('style'), {textContent: css}))"
FRAME_RATE = 10  # of the canvas
VIEWPORT = {"width": 1700, "height": 950}

# What the frontend complains about on a fresh host: files and folders that no user has written yet, its own start, and
# models whose size it asks the internet for, which the host's content policy forbids
NOISE = (
    "/user.css",
    "/favicon.ico",  # of older frontends
    "/api/userdata",
    "/templates/",
    "ComfyApp graph accessed before initialization",
    "Content Security Policy",
)


class NoChromium(Exception):
    """The message says how to install it."""


def find_chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise NoChromium("no chromium on PATH: install it (Debian: apt-get install chromium fonts-dejavu-core)")


class Browser:
    """A running browser; a context manager. `open(url)` gives a page with the host's frontend ready."""

    def __enter__(self):
        executable = find_chromium()
        self._driver = sync_playwright().start()
        self._browser = self._driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._browser.close()
        self._driver.stop()

    def open(self, url: str, vue_nodes: bool = False) -> "Frontend":
        """The host's frontend at `url`; `vue_nodes` chooses the newer of its two renderers."""
        page = self._browser.new_context(viewport=VIEWPORT).new_page()
        page.set_default_timeout(READY_SECONDS * 1000)
        frontend = Frontend(page)
        page.goto(url)
        page.wait_for_function(READY, polling=POLLING)
        page.evaluate(ADD_STYLE, STILL)
        frontend.set("LiteGraph.Canvas.MaximumFps", FRAME_RATE)
        frontend.render_with(vue_nodes)
        return frontend


class Frontend:
    """A page of the host: load a graph, look at it, run it as a user does.

    page: Playwright's. errors: uncaught exceptions and the console's errors since the page opened, without `NOISE`.
    """

    def __init__(self, page: Page):
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message):
        said = f"{message.text} ({message.location['url']})"
        if message.type == "error" and not any(noise in said for noise in NOISE):
            self.errors.append(said)

    def set(self, setting: str, value):
        """Change one of the frontend's settings."""
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])

    def render_with(self, vue_nodes: bool):
        """Choose the newer of the frontend's two renderers, or the older. The graph that is open stays."""
        self.set("Comfy.VueNodes.Enabled", vue_nodes)

    def load(self, workflow: dict, name: str = "test"):
        """Load a workflow in the frontend's own form, as the Open menu does, and fit it into the view."""
        self.page.evaluate("async ([flow, name]) => await app.loadGraphData(flow, true, true, name)", [workflow, name])
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def set_widgets(self, values: dict[str, dict]):
        """Give widgets new values as a user does; values: {node id: {widget: value}}."""
        self.page.evaluate(
            """values => {
              for (const [id, widgets] of Object.entries(values))
                for (const [name, value] of Object.entries(widgets)) {
                  const node = app.graph.getNodeById(Number(id));
                  const widget = node.widgets.find(widget => widget.name === name);
                  const before = widget.value;
                  widget.value = value;
                  widget.callback?.(value);
                  node.onWidgetChanged?.(name, value, before, widget);
                }
            }""",
            values,
        )

    def export(self) -> dict:
        """The graph in API form, as the Export (API) menu writes it, without the players of loaded clips: those are
        inputs once the clip is loaded, and not before; nor the pack of each node, which newer frontends add."""
        graph = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        for node in graph.values():
            node["inputs"].pop("video-preview", None)
            node["_meta"] = {"title": node["_meta"]["title"]}
        return graph

    def save(self) -> dict:
        """The graph in the frontend's own form, as the Save menu writes it."""
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def run(self, seconds: float = 600) -> list[dict]:
        """Press the Run button and wait for the end; returns [{"type", "detail"}] of the events seen on the way."""
        self.page.evaluate(
            """() => {
              const kinds = ['execution_success', 'execution_error', 'execution_interrupted', 'executed', 'progress'];
              for (const type of window.seen ? [] : kinds)
                app.api.addEventListener(type, event => window.seen.push({type, detail: event.detail}));
              window.seen = [];
            }"""
        )
        self.page.locator("[data-testid=queue-button]").click()
        self.page.wait_for_function(
            """() => Object.keys(window.app.lastNodeErrors ?? {}).length
              || window.seen.some(event => event.type.startsWith('execution_'))""",
            timeout=seconds * 1000,
            polling=POLLING,
        )
        return self.page.evaluate("() => window.seen")

    def node_errors(self) -> dict:
        """What validation said about the last prompt, {} if nothing."""
        return self.page.evaluate("() => window.app.lastNodeErrors ?? {}")

    def pictures(self) -> dict[str, int]:
        """{node id: number of pictures that the last run gave it to show}, of the nodes that show any"""
        counts = "Object.entries(app.nodeOutputs).map(([id, o]) => [id, o.images?.length ?? 0])"
        return self.page.evaluate(f"() => Object.fromEntries({counts}.filter(([, count]) => count))")

    def screenshot(self, path: Path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(1000)  # the canvas draws and loads thumbnails after the last event
        self.page.screenshot(path=str(path))
