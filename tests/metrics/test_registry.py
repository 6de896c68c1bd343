"""The registry of metrics: one entry adds a metric, and an entry that cannot be computed says why."""

import torch
from storyreel.core.metrics import report
from storyreel.core.metrics.likeness import EmbeddingScore, Likeness
from storyreel.core.metrics.metric import Metric, evaluate, mean
from storyreel.core.metrics.registry import Entry, compute_available, given, importable
from storyreel.core.metrics.slices import Slice


class Inputs:
    encoder = None
    prompt = ""


def test_an_entry_is_computed_or_says_why():
    def broken():
        raise ImportError("OpenCV cannot be imported.")

    entries = [
        Entry("a", lambda inputs: 1),
        Entry("b", lambda inputs: 2, (given("prompt", "needs a prompt."),)),
        Entry("c", lambda inputs: 3, (importable(broken), given("prompt", "needs a prompt."))),
    ]
    missing = {"b": "needs a prompt.", "c": "OpenCV cannot be imported."}
    assert compute_available(entries, Inputs()) == ({"a": 1}, missing)
    assert [entry.unavailable(Inputs()) for entry in entries] == [None, *missing.values()]


def test_parts_are_listed_in_place_of_what_computes_them():
    encoder, prompt = given("encoder", "needs an encoder."), given("prompt", "needs a prompt.")
    parts = Entry("cosine", len, (encoder,)), Entry("text score", len, (encoder, prompt))
    group = Entry("scores", lambda inputs: sorted(compute_available(parts, inputs)[1]), (encoder,), parts)
    inputs = Inputs()
    assert compute_available([group], inputs) == (
        {},
        {"cosine": "needs an encoder.", "text score": "needs an encoder."},
    )
    inputs.encoder = []
    assert group.not_computed(inputs) == {"text score": "needs a prompt."}


class Brightness(Metric):
    """A metric that no report knows."""

    name = "brightest pixel"

    def __init__(self):
        super().__init__("brightest")

    def update(self, frame):
        self.record(brightest=frame.max().item())

    def results(self):
        return {"by": "hand", "mean": mean(self.per_frame["brightest"])}


def test_a_new_metric_is_reported_without_further_code():
    """In the file, in words and in the chart; the same for a new score of embeddings."""
    frames, slice = torch.tensor([0, 0.5, 0.5, 1])[:, None, None, None].expand(4, 16, 16, 3), Slice()
    gray = EmbeddingScore("grayness", lambda rows, before: rows.mean(1).tolist())
    metrics = [slice, Brightness(), Likeness(lambda images: images.mean((1, 2)), "means", [gray])]
    found = report.collect(evaluate(frames, metrics), metrics, {"LPIPS": "needs weights."})
    found["drift"] = {}
    assert found["brightest pixel"] == {"by": "hand", "mean": 0.5} and found["series"]["brightest"][3] == 1
    words = report.in_words(found)
    assert "brightest pixel\n  by: hand\n  mean: 0.5\n" in words and "  grayness: 0.5\n" in words
    assert words.endswith("Not computed\n  LPIPS: needs weights.")
    plots = [report.draw(found | {"series": series}, slice) for series in (found["series"], {"change": [1.0] * 4})]
    assert plots[0].shape[1] > plots[1].shape[1]  # a panel for each of the two


def test_every_entry_of_the_nodes_is_named_once_and_says_why_it_is_not_computed(host):
    from storyreel.host.metrics import story_metrics, video_metrics

    nothing = video_metrics.VideoInputs(torch.zeros(16, 16, 3), iter)
    entries = [*video_metrics.METRICS, *video_metrics.SCORES]
    names = [entry.name for entry in (*entries, *story_metrics.METRICS)]
    assert len(set(names)) == len(names)
    reasons = [entry.unavailable(nothing) for entry in entries]
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons if reason is not None)
    assert reasons.count(None) == 5  # change, drift, slice, cuts, motion
