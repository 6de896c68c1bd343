"""Scores of a video by networks whose weights a user may have: aesthetic heads, FaceNet, I3D."""

from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor, nn

from ...core.metrics.aesthetics import WIDTH, AestheticHead, read_head
from ...core.metrics.faces import Reidentification
from ...core.metrics.video_sets import WINDOW
from ...core.weights.refusal import Unreadable
from ...core.weights.torch_file import check_script
from ..common.folders import path_of
from ..common.loading import check_nothing_else, check_whole, describe, is_short_of_memory, read_with_metadata
from ..common.plain_network import on_device, plain_patcher
from .encoders import Encoder

AESTHETIC, FACENET, I3D = "aesthetic", "facenet", "i3d"  # folders of models
SCRIPTS = (".pt", ".pth", ".ts")  # how files of TorchScript end
ENCODER = "CLIP ViT-L/14"  # which the heads were trained on
LEAST_FACE = 20  # pixels: MTCNN looks for none smaller, and takes no image smaller
ARGUMENTS = {"rescale", "resize", "return_features"}  # of the TorchScript I3D
FEATURES = 400  # of I3D: a number for each class of Kinetics


def aesthetic_head(name: str, encoder: Encoder) -> AestheticHead:
    """The head in a file of models/aesthetic. Raises ValueError for another file, and for another encoder."""
    weights, _ = read_with_metadata(path_of(AESTHETIC, name))
    head = read_head(weights)
    if head is None:
        raise ValueError(
            f"{name} is {describe(weights)}; LAION's aesthetic predictor for CLIP ViT-L/14 was expected: "
            "sac+logos+ava1-l14-linearMSE.pth or sa_0_4_vit_l_14_linear.pth."
        )
    if encoder.architecture != ENCODER or encoder.width != WIDTH:
        raise ValueError(
            f"{encoder.source} holds {encoder.name}, with embeddings of width {encoder.width}, and {name} was trained "
            f"on {ENCODER}'s of width {WIDTH}: use that, or choose none at aesthetic_head."
        )
    head.name += f" ({Path(name).name})"  # there are several files of V2
    return head


def import_facenet():
    """The package facenet_pytorch. Raises ImportError if it, or what it needs of torchvision, does not work."""
    try:
        import facenet_pytorch
        from torchvision.ops import nms
    except ImportError as error:
        raise ImportError(
            f"facenet-pytorch cannot be imported ({error}): pip install --no-deps facenet-pytorch, with ComfyUI's "
            "Python."
        ) from None
    try:
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # MTCNN's; absent where torchvision was built for another PyTorch
    except (RuntimeError, NotImplementedError):
        raise ImportError("MTCNN needs torchvision's nms: install the torchvision that suits your PyTorch.") from None
    return facenet_pytorch


def reidentification(name: str) -> Reidentification:
    """Faces found by MTCNN, with the weights that facenet-pytorch brings, and told apart by a file of models/facenet.

    Raises as `import_facenet`, and ValueError for another file.
    """
    facenet_pytorch = import_facenet()
    weights, _ = read_with_metadata(path_of(FACENET, name))
    network = facenet_pytorch.InceptionResnetV1()
    try:  # without the layer that named the people of the training set
        known = {key: weight for key, weight in weights.items() if not key.startswith("logits.")}
        check_whole(network, known)
        check_nothing_else(network, known)
    except (KeyError, Unreadable) as error:
        raise ValueError(
            f"{name} is {describe(weights)}; FaceNet's InceptionResnetV1 was expected, as in "
            "20180402-114759-vggface2.pt."
        ) from error
    network.load_state_dict(known)
    detector = facenet_pytorch.MTCNN(keep_all=True)
    return Reidentification(_finder(detector), _to_cpu(network), f"MTCNN and FaceNet ({Path(name).name})")


def _finder(detector) -> Callable[[Tensor], Tensor]:
    """A frame [H, W, 3] from 0 to 1 -> its faces [N, 3, 160, 160], as FaceNet wants them."""
    from PIL import Image

    patcher = plain_patcher(detector)

    def find(frame: Tensor) -> Tensor:
        image = Image.fromarray((frame * 255).round().to(torch.uint8).numpy())
        boxes = None
        if min(image.size) >= LEAST_FACE:
            comfy.model_management.load_models_gpu([patcher])
            detector.device = patcher.load_device  # where it puts what it sees
            boxes, _ = detector.detect(image)
        inside = [box for box in ([] if boxes is None else boxes) if _has_pixels(box, *image.size)]
        return detector.extract(image, inside, None) if inside else torch.zeros(0)

    return find


def _has_pixels(box, width: int, height: int) -> bool:
    """Of a box that MTCNN found: left, top, right, bottom; it may stand out of the image."""
    left, top, right, bottom = box
    return int(max(left, 0)) < int(min(right, width)) and int(max(top, 0)) < int(min(bottom, height))


def video_features(name: str) -> Callable[[Tensor], Tensor]:
    """I3D in a TorchScript file of models/i3d: clips [B, 3, 16, H, W] from -1 to 1 -> [B, 400], before the softmax.

    As StyleGAN-V uses it: the network squeezes the images to 224 x 224 itself. Raises ValueError for another file.
    """
    expected = "I3D as TorchScript was expected: i3d_torchscript.pt."
    path = Path(path_of(I3D, name))
    try:
        check_script(path)
        script = torch.jit.load(path, map_location="cpu").eval()
        taken = {argument.name for argument in script.forward.schema.arguments}
    except Exception as error:
        if is_short_of_memory(error):
            raise
        raise ValueError(f"{name} is no TorchScript file, or not a whole one; {expected}") from error
    if not ARGUMENTS <= taken:
        raise ValueError(f"{name} holds a network without {', '.join(sorted(ARGUMENTS - taken))}; {expected}")
    network = _to_cpu(script)

    def features(clips: Tensor) -> Tensor:
        found = network(clips, rescale=False, resize=True, return_features=True)
        if found.shape != (len(clips), FEATURES):
            raise ValueError(
                f"{name} gives {list(found.shape)} for {len(clips)} x {WINDOW} frames, and I3D's features are "
                f"{[len(clips), FEATURES]}; {expected}"
            )
        return found

    return features


def _to_cpu(network: nn.Module) -> Callable[..., Tensor]:
    """The network as a function of tensors on the CPU, which it gives back there."""
    run = on_device(network)
    return lambda x, **options: run(x, **options).float().cpu()
