"""DynamiCrafter: animates one image, or interpolates between two."""

from typing import Any

from comfy_api.latest import io

from ..host.common.loading import LARGE_PRECISIONS
from ..host.dynamicrafter import conditioning, decode, loader, sampling
from .node import StoryReelNode
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/DynamiCrafter"


def cfg_rescale_input() -> io.Float.Input:
    return io.Float.Input(
        "cfg_rescale",
        default=0.7,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Reduces the contrast that guidance exaggerates, computed over the whole clip. 0.7 as published for "
        "512 and 1024, 0 for 256. 0 changes nothing.",
    )


def cfg_inputs() -> list[io.Float.Input]:
    """Guidance by text and by image."""
    scale: dict[str, Any] = dict(default=7.5, min=0.0, max=100.0, step=0.1)
    return [
        io.Float.Input("cfg_text", **scale, tooltip="Guidance scale of the prompt."),
        io.Float.Input("cfg_image", **scale, tooltip="Guidance scale of the image."),
        cfg_rescale_input(),
    ]


class StoryReelDynamiCrafterLoader(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterLoader",
            display_name="Load DynamiCrafter (StoryReel)",
            category=CATEGORY,
            description="Loads a published DynamiCrafter or ToonCrafter checkpoint: full, pruned, or UNet and image "
            "projection only.",
            search_aliases=["DynamiCrafter", "ToonCrafter", "image to video", "interpolation"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=loader.checkpoint_names(),
                    tooltip="A file in models/checkpoints or models/diffusion_models.",
                ),
                io.Combo.Input(
                    "model_type",
                    options=["auto", *loader.TYPES],
                    default="auto",
                    tooltip="Type of the checkpoint. auto detects it from the file. 512 and 512_interp differ in the "
                    "file's name only: choose the type here if you renamed the file. model_info shows the "
                    "result.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(LARGE_PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the UNet. auto: ComfyUI's choice.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for any sampler. The frames are the batch of its latent."),
                io.Clip.Output(
                    tooltip="The text encoder, if the file contains one. Otherwise use Load CLIP with the text encoder "
                    "of SD2.x."
                ),
                io.ClipVision.Output(
                    tooltip="The image encoder, if the file contains one. Otherwise use Load CLIP Vision with "
                    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors."
                ),
                io.Vae.Output(
                    tooltip="The VAE, if the file contains one. Otherwise use Load VAE with "
                    "vae-ft-mse-840000-ema-pruned.safetensors."
                ),
                io.String.Output(
                    display_name="model_info",
                    tooltip="The detected type of the checkpoint, its use, and what the file lacks.",
                ),
            ],
        )

    @classmethod
    def execute(cls, checkpoint, model_type, precision) -> io.NodeOutput:
        found = loader.load(checkpoint, model_type, LARGE_PRECISIONS[precision])
        return io.NodeOutput(
            found.model,
            found.clip,
            found.clip_vision,
            found.vae,
            loader.describe_checkpoint(found),
            ui={"text": [loader.describe_checkpoint(found)]},
        )


class StoryReelDynamiCrafterConditioning(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterConditioning",
            display_name="DynamiCrafter Conditioning (StoryReel)",
            category=CATEGORY,
            description="Prepares the inputs of a shot: prompts, start image, and an end image for interpolation.",
            search_aliases=["image to video", "interpolate", "loop"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt, encoded by the text encoder of SD2.x. The first 77 tokens are used.",
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt. The published code leaves it empty."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input("vae", tooltip="The VAE of SD1.x, of SD2.x or of the checkpoint."),
                io.Image.Input(
                    "start_image", tooltip="The first image. It is scaled to cover the size and center-cropped."
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The last image, for interpolate. It must have the size of start_image.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(conditioning.MODES),
                    default="animate",
                    tooltip="animate: the image is animated. interpolate: from start_image to end_image. loop: from "
                    "start_image back to it. interpolate and loop need a checkpoint trained for it (512_interp, "
                    "ToonCrafter).",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width of the shot in pixels. A multiple of 64.",
                ),
                io.Int.Input(
                    "height",
                    default=320,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Height of the shot in pixels. A multiple of 64.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Number of frames. The published models were trained on 16 and work best with 16.",
                ),
                io.Int.Input(
                    "fs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Frame stride or frame rate. 0: the checkpoint's default. 256: frame stride, 1 to 6; a "
                    "larger value gives more motion. Others: frames per second (512: 15 to 30, 1024: 5 to 15, "
                    "interpolate: 5 to 30, loop: 5); a smaller value gives more motion.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the image."),
                io.Conditioning.Output(
                    display_name="image_only", tooltip="The negative prompt with the image, for DynamiCrafter Guider."
                ),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt without the image."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of this size and number of frames."),
            ],
        )

    @classmethod
    def execute(
        cls, positive, negative, clip_vision, vae, start_image, mode, width, height, frames, fs, end_image=None
    ) -> io.NodeOutput:
        outputs = conditioning.condition(
            positive, negative, clip_vision, vae, start_image, end_image, mode, width, height, frames, fs or None
        )
        result = io.NodeOutput(*outputs)
        if message := conditioning.describe_frames(frames):
            result.ui = {"text": [message]}
        return result


class StoryReelDynamiCrafterGuider(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterGuider",
            display_name="DynamiCrafter Guider (StoryReel)",
            category=CATEGORY,
            description="Guidance with separate scales for text and image. Equal scales are ordinary CFG.",
            search_aliases=["multi-condition CFG", "guidance rescale"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.Conditioning.Input("positive", tooltip="From DynamiCrafter Conditioning."),
                io.Conditioning.Input("image_only", tooltip="From DynamiCrafter Conditioning."),
                io.Conditioning.Input("negative", tooltip="From DynamiCrafter Conditioning."),
                *cfg_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, positive, image_only, negative, cfg_text, cfg_image, cfg_rescale) -> io.NodeOutput:
        sampling.parts_of(model)
        guider = sampling.TextImageGuider(model)
        guider.set_conds(positive, image_only, negative)
        guider.set_scales(cfg_text, cfg_image, cfg_rescale)
        return io.NodeOutput(guider)


class StoryReelDynamiCrafterRescale(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterRescale",
            display_name="DynamiCrafter Guidance Rescale (StoryReel)",
            category=CATEGORY,
            description="Guidance rescale over the whole clip, for KSampler. ComfyUI's RescaleCFG rescales each frame "
            "alone.",
            search_aliases=["guidance rescale", "RescaleCFG"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                cfg_rescale_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model with rescaled guidance.")],
        )

    @classmethod
    def execute(cls, model, cfg_rescale) -> io.NodeOutput:
        return io.NodeOutput(sampling.patch_rescale(model, cfg_rescale))


class StoryReelDynamiCrafterGate(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterGate",
            display_name="DynamiCrafter Image Gate (StoryReel)",
            category=CATEGORY,
            description="Strength of the image tokens in the cross-attention layers. Outer layers control "
            "appearance, middle layers control motion.",
            search_aliases=["image cross-attention", "lambda"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.Float.Input(
                    "outer",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Strength in the outer layers. 1 as published, 0 for none.",
                ),
                io.Float.Input(
                    "middle",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Strength in the layers at a quarter of the resolution and below. A smaller value gives "
                    "more motion.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with these strengths.")],
        )

    @classmethod
    def execute(cls, model, outer, middle) -> io.NodeOutput:
        return io.NodeOutput(sampling.patch_gate(model, outer, middle))


class StoryReelToonCrafterDecode(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelToonCrafterDecode",
            display_name="ToonCrafter Decode (StoryReel)",
            category=CATEGORY,
            description="Decodes a clip with details from its start and end image. VAE Decode with the same VAE "
            "decodes each frame alone.",
            search_aliases=["dual reference", "VAE decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled clip, 16 frames as published."),
                io.Vae.Input("vae", tooltip="The VAE of a ToonCrafter checkpoint."),
                io.Image.Input("start_image", tooltip="The first image of the clip."),
                io.Image.Input("end_image", tooltip="The last image of the clip."),
                io.Boolean.Input(
                    "refine_middle",
                    default=False,
                    advanced=True,
                    tooltip="Decode a second time without the second and the second-to-last frame, and take the two "
                    "middle frames from that result, as the published app does.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The frames.")],
        )

    @classmethod
    def execute(cls, samples, vae, start_image, end_image, refine_middle) -> io.NodeOutput:
        return io.NodeOutput(decode.decode_clip(vae, samples["samples"], start_image, end_image, refine_middle))


NODES = [
    StoryReelDynamiCrafterLoader,
    StoryReelDynamiCrafterConditioning,
    StoryReelDynamiCrafterGuider,
    StoryReelDynamiCrafterRescale,
    StoryReelDynamiCrafterGate,
    StoryReelToonCrafterDecode,
]
