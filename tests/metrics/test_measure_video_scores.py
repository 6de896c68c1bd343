"""Measure Video with a user's weights: aesthetic score, re-identification, FVD and KVD, by stand-ins of the files.

Heads, FaceNet and the TorchScript have random weights, under the published names and of the published shapes. MTCNN is
the published one, with its own weights, and finds a real face.
"""

import sys

import pytest
import torch
from harness import clips
from harness.encoders import aesthetic_predictor, image_encoder
from harness.host import InvalidPrompt
from harness.operators import provide_nms
from storyreel.core.metrics.video_sets import frechet_distance, kernel_distance


@pytest.fixture(scope="module")
def carphone():
    return clips.frames(clips.CARPHONE, 61)


@pytest.fixture(scope="module")
def published():
    return aesthetic_predictor()


@pytest.fixture
def put(host):
    """put(folder, name, weights): a file in models/folder while the test runs; weights: a state dict, or what has a
    save() of its own."""
    written = []

    def write(folder: str, name: str, weights) -> str:
        path = host.base / "models" / folder / name
        path.parent.mkdir(exist_ok=True)
        weights.save(str(path)) if hasattr(weights, "save") else torch.save(weights, path)
        written.append(path)
        return name

    yield write
    for path in written:
        path.unlink()


class TinyVideoNetwork(torch.nn.Module):
    """Called as the published I3D is, and as wide."""

    def __init__(self, width: int = 400):
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(6, width)

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale or not resize or not return_features:
            raise ValueError("another convention")
        return self.project(torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], 1)) * 20


@pytest.fixture(scope="module")
def vit_l(host):
    """CLIP ViT-L/14 by its depth, width and pictures; what is inside its layers is small."""
    sizes = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=224)
    return image_encoder(768, **sizes)


def test_what_nobody_chose_is_listed_with_what_it_needs(measure, carphone):
    words, found = measure(carphone[:3])
    listed = found["not_computed"]
    for measure_, file, folder, widget in (
        ("aesthetic score", "sac+logos+ava1-l14-linearMSE.pth", "models/aesthetic", "aesthetic_head"),
        ("re-identification", "20180402-114759-vggface2.pt", "models/facenet", "facenet"),
        ("FVD, KVD", "i3d_torchscript.pt", "models/i3d", "i3d"),
    ):
        assert all(part in listed[measure_] for part in (file, folder, widget))
        assert f"  {measure_}: {listed[measure_]}" in words
    assert not {"likeness", "faces", "sets"} & set(found)


@torch.no_grad()  # as in the host; a graph would hold on to the encoder
def test_the_aesthetic_score_is_of_the_connected_encoders_embeddings(measure, put, vit_l, published, carphone):
    from storyreel.host.metrics.features import embed_images

    name = put("aesthetic", "sac+logos+ava1-l14-linearMSE.pth", published.state_dict())
    words, found = measure(carphone[:2], clip_vision=vit_l, aesthetic_head=name)
    embeds = torch.nn.functional.normalize(embed_images(vit_l, carphone[:2]), dim=-1)
    with torch.no_grad():
        expected = published["layers"](embeds)[:, 0]
    assert found["series"]["aesthetic"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found["likeness"]["aesthetic"] == pytest.approx(expected.mean().item(), abs=1e-5)
    assert f"aesthetic score by LAION's aesthetic predictor V2 ({name}): " in words
    assert "aesthetic score" not in found["not_computed"]


def test_an_aesthetic_head_wants_its_encoder(measure, put, carphone):
    name = put("aesthetic", "linear.pth", torch.nn.Linear(768, 1).state_dict())
    _, found = measure(carphone[:2], aesthetic_head=name)
    assert found["not_computed"]["aesthetic score"] == ("needs an image encoder: connect CLIP ViT-L/14 to clip_vision.")
    for width in (768, 512):  # even of the right width it may be another encoder
        with pytest.raises(ValueError, match=f"of width {width}, and linear.pth was trained on CLIP ViT-L/14's of"):
            measure(carphone[:2], clip_vision=image_encoder(width), aesthetic_head=name)
    other = put("aesthetic", "other.pth", torch.nn.Linear(512, 1).state_dict())
    with pytest.raises(ValueError, match="other.pth is a file of 2 tensors.*LAION's aesthetic predictor for CLIP"):
        measure(carphone[:2], clip_vision=image_encoder(768), aesthetic_head=other)


def test_fvd_and_kvd_by_a_script_of_the_published_signature(measure, put, carphone):
    """Against another clip of another size and length; PSNR and SSIM say that they do not fit."""
    name = put("i3d", "i3d.pt", torch.jit.script(TinyVideoNetwork()))
    reference = clips.frames(clips.CARPHONE_BLURRED, 55)[:, :100]
    words, found = measure(carphone[:40], reference_video=reference, i3d=name)

    def features(clip):
        network, windows = TinyVideoNetwork(), clip[: len(clip) // 16 * 16].unflatten(0, (-1, 16))
        with torch.no_grad():
            return network(windows.movedim(-1, 1) * 2 - 1, rescale=False, resize=True, return_features=True)

    ours, theirs = features(carphone[:40]), features(reference)
    assert found["sets"]["windows"] == [2, 3] and found["sets"]["by"] == "I3D (i3d.pt)"
    assert found["sets"]["fvd"] == pytest.approx(frechet_distance(ours, theirs), rel=1e-3)
    assert found["sets"]["kvd"] == pytest.approx(kernel_distance(ours, theirs), rel=1e-3)
    assert "Windows of 16 frames in features of I3D (i3d.pt): 2, and 3 of the reference" in words
    assert found["not_computed"]["PSNR, SSIM"] == "The reference is 176 x 100, and the video is 176 x 144."
    assert "fidelity" not in found and "psnr" not in found["series"] and "FVD, KVD" not in found["not_computed"]


def test_fvd_of_a_video_and_itself_is_none(measure, put, carphone):
    """A file as its own reference: it is read beside itself, and PSNR and SSIM are there, too."""
    from comfy_api.latest import InputImpl

    name = put("i3d", "i3d.pt", torch.jit.script(TinyVideoNetwork()))
    video = InputImpl.VideoFromFile(str(clips.path_of(clips.CARPHONE)), duration=1.2)
    _, found = measure(video, reference_video=video, i3d=name)
    assert found["sets"]["fvd"] == pytest.approx(0, abs=1e-6) and found["sets"]["windows"] == [2, 2]
    assert found["fidelity"]["equal_frames"] == found["frames"]


def test_fvd_wants_a_reference_and_windows(measure, put, carphone):
    name = put("i3d", "i3d.pt", torch.jit.script(TinyVideoNetwork()))
    assert measure(carphone[:2], i3d=name)[1]["not_computed"]["FVD, KVD"] == "need a reference_video."
    _, found = measure(carphone[:20], reference_video=carphone[:20], i3d=name)
    assert "the video has 1, and the reference has 1" in found["not_computed"]["FVD, KVD"]
    assert found["fidelity"]["equal_frames"] == 20 and "sets" not in found


def test_another_script_is_refused(measure, put, carphone):
    others = {
        "is no TorchScript file": {"weight": torch.zeros(3)},
        "holds a network without rescale, resize, return_features": torch.jit.script(torch.nn.Linear(3, 3)),
        r"gives \[1, 399\] for 1 x 16 frames": torch.jit.script(TinyVideoNetwork(399)),
    }
    for number, (why, weights) in enumerate(others.items()):
        name = put("i3d", f"{number}.pt", weights)
        with pytest.raises(ValueError, match=f"{name} {why}.*I3D as TorchScript was expected: i3d_torchscript.pt"):
            measure(carphone[:16], reference_video=carphone[:16], i3d=name)


@pytest.fixture
def facenet(monkeypatch):
    """facenet-pytorch, and whatever it needs of torchvision."""
    import facenet_pytorch

    provide_nms(monkeypatch)
    return facenet_pytorch


@pytest.fixture
def recogniser(facenet):
    """(FaceNet with random weights, what its file would hold: a layer more, which named the people of its training)"""
    torch.manual_seed(0)
    network = facenet.InceptionResnetV1().eval()
    return network, network.state_dict() | {"logits.weight": torch.zeros(7, 512), "logits.bias": torch.zeros(7)}


def test_faces_are_told_apart_by_mtcnn_and_facenet(measure, put, facenet, recogniser, carphone):
    """A face that talks, in two frames of three twice; in between, nobody."""
    from PIL import Image

    network, weights = recogniser
    frames = torch.stack([carphone[0], carphone[30], torch.zeros_like(carphone[0]), carphone[60], carphone[0]])
    words, found = measure(frames, facenet=put("facenet", "vggface2.pt", weights))

    mtcnn = facenet.MTCNN(keep_all=True)
    pictures = [Image.fromarray((frame * 255).round().byte().numpy()) for frame in frames]
    with torch.no_grad():
        seen = [None if (faces := mtcnn(picture)) is None else network(faces) for picture in pictures]
    assert [number for number, rows in enumerate(seen) if rows is None] == [2]

    def best(number):
        return max(float(a @ b / (a.norm() * b.norm())) for a in seen[number - 1] for b in seen[number])

    likeness = found["series"]["face_likeness"]
    assert [likeness[number] for number in (0, 2, 3)] == [None] * 3
    assert [likeness[1], likeness[4]] == pytest.approx([best(1), best(4)], abs=1e-5)
    assert found["faces"]["reidentification"] == pytest.approx(50 * (best(1) + best(4)), abs=1e-3)
    assert "in 4 frames" in words and "re-identification, 2 pairs of frames" in words and "vggface2.pt" in words


def test_frames_too_small_for_a_face_have_none(measure, put, recogniser, carphone):
    _, found = measure(carphone[:2, :16], facenet=put("facenet", "vggface2.pt", recogniser[1]))
    assert found["faces"]["reidentification"] is None and found["series"]["faces"] == [0, 0]


def test_another_recogniser_is_refused(measure, put, facenet, carphone):
    name = put("facenet", "other.pt", {"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="other.pt is a file of 1 tensors, weight among them; FaceNet's Inception"):
        measure(carphone[:2], facenet=name)


def test_without_the_package_faces_are_listed(measure, put, monkeypatch, carphone):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)  # what Python itself does for a module that is not there
    _, found = measure(carphone[:2], facenet=put("facenet", "vggface2.pt", {"weight": torch.zeros(3)}))
    assert "pip install --no-deps facenet-pytorch" in found["not_computed"]["re-identification"]
    assert found["drift"]["red"]


def test_without_torchvisions_operators_faces_are_listed(measure, put, facenet, monkeypatch, carphone):
    """As torchvision answers where it was built for another torch."""
    import torchvision

    def absent(*_):
        raise RuntimeError("Couldn't load custom C++ ops.")

    monkeypatch.setattr(torchvision.ops, "nms", absent)
    _, found = measure(carphone[:2], facenet=put("facenet", "vggface2.pt", {"weight": torch.zeros(3)}))
    assert "install the torchvision that suits your PyTorch" in found["not_computed"]["re-identification"]


def test_files_are_chosen_in_a_graph_and_old_prompts_go_on(host, measure, put, carphone, monkeypatch):
    """The host's own check of a prompt: with a file that is there, with one that is not, and without the inputs."""
    name = put("i3d", "i3d.pt", torch.jit.script(TinyVideoNetwork()))
    inputs = dict(chunk_length=0, overlap=0, prompt="", filename_prefix="graph", slice_height=0.5)

    def run(**chosen):
        picture = {"class_type": "EmptyImage", "inputs": dict(width=32, height=32, batch_size=33, color=0)}
        node = {
            "class_type": "StoryReelMeasureVideo",
            "inputs": {"video": ["a", 0], "reference_video": ["a", 0], **inputs},
        }
        node["inputs"] |= chosen
        return host.run({"a": picture, "b": node}).values["b"][0]

    assert "FVD: 0" in run(i3d=name, facenet="none", aesthetic_head="none")
    assert "FVD, KVD: need i3d_torchscript.pt in models/i3d" in run()
    with pytest.raises(InvalidPrompt, match="i3d"):
        run(i3d="elsewhere.pt")
