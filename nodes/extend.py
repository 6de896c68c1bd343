"""StreamingT2V: a shot becomes a long video."""

from comfy_api.latest import io

from ..host import streaming_loader as loader
from ..host.loading import LARGE_PRECISIONS, checkpoint_names
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/StreamingT2V"


class StoryReelStreamingLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelStreamingLoader",
            display_name="Load StreamingT2V (StoryReel)",
            category=CATEGORY,
            description="A checkpoint of StreamingT2V, StreamingSVD, ModelScope text-to-video or MS-Vid2Vid, as "
            "published.",
            search_aliases=["StreamingT2V", "StreamingSVD", "ModelScope", "Vid2Vid", "long video", "extend"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    tooltip="A file in models/checkpoints or models/diffusion_models: streaming_t2v.ckpt or the same "
                    "weights as safetensors; StreamingSVD's model.safetensors; ModelScope text-to-video in its own or "
                    "in diffusers' layout; MS-Vid2Vid's non_ema_0035000.pth. ModelScope's weights, and what is built "
                    "on them, may not be used commercially (CC-BY-NC); Stable Video Diffusion's are for research.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["auto", *loader.CHOICES],
                    default="auto",
                    tooltip="What the file is. auto reads it from the keys; ModelScope text-to-video and MS-Vid2Vid "
                    "have the same ones, so there the file's name decides: choose here if yours was renamed. The text "
                    "output says what it was taken for.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(LARGE_PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the video model. auto: what the host would choose.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for every sampler; frames are the batch of its latent."),
                io.Clip.Output(
                    tooltip="Its text encoder, if the file carries one. Else use Load CLIP with the text encoder of "
                    "SD2.x. StreamingSVD reads no text."
                ),
                io.Vae.Output(
                    tooltip="Its autoencoder, if the file carries one. Else use Load VAE with "
                    "vae-ft-mse-840000-ema-pruned.safetensors."
                ),
                io.ClipVision.Output(
                    tooltip="Its image encoder, if the file carries one. Else use Load CLIP Vision with "
                    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors. ModelScope and MS-Vid2Vid see no picture."
                ),
                io.String.Output(
                    display_name="taken_for",
                    tooltip="What the file was taken for and by what, what it is good at, its licence, what it lacks.",
                ),
            ],
        )

    @classmethod
    def execute(cls, checkpoint, kind, precision) -> io.NodeOutput:
        found = loader.load(checkpoint, kind, LARGE_PRECISIONS[precision])
        said = loader.tell(found)
        return io.NodeOutput(found.model, found.clip, found.vae, found.clip_vision, said, ui={"text": [said]})


NODES = [StoryReelStreamingLoader]
