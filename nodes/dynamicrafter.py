"""DynamiCrafter: a picture, or two, becomes a moving shot."""

from comfy_api.latest import io

from ..host.common.loading import LARGE_PRECISIONS
from ..host.dynamicrafter import conditioning as conditioning
from ..host.dynamicrafter import decode as decode
from ..host.dynamicrafter import loader as loader
from ..host.dynamicrafter import sampling as sampling
from .node import StoryReelNode
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/DynamiCrafter"


class StoryReelDynamiCrafterLoader(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterLoader",
            display_name="Load DynamiCrafter (StoryReel)",
            category=CATEGORY,
            description="A DynamiCrafter or ToonCrafter checkpoint as published: full, pruned, or UNet and image "
            "projection alone.",
            search_aliases=["DynamiCrafter", "ToonCrafter", "image to video", "interpolation"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=loader.checkpoint_names(),
                    tooltip="A file in models/checkpoints or models/diffusion_models.",
                ),
                io.Combo.Input(
                    "model_type",
                    options=["auto", *loader.KINDS],
                    default="auto",
                    tooltip="What the file is. auto reads it from the file; 512 and 512_interp differ by the file's "
                    "name alone, so choose here if yours was renamed. The text output says what it was taken for.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(LARGE_PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the UNet. auto: what the host would choose.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for every sampler; frames are the batch of its latent."),
                io.Clip.Output(
                    tooltip="Its text encoder, if the file carries one. Else use Load CLIP with the text encoder of "
                    "SD2.x."
                ),
                io.ClipVision.Output(
                    tooltip="Its image encoder, if the file carries one. Else use Load CLIP Vision with "
                    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors."
                ),
                io.Vae.Output(
                    tooltip="Its autoencoder, if the file carries one. Else use Load VAE with "
                    "vae-ft-mse-840000-ema-pruned.safetensors."
                ),
                io.String.Output(
                    display_name="model_info", tooltip="What the file was taken for, and what it is good at."
                ),
            ],
        )

    @classmethod
    def execute(cls, checkpoint, model_type, precision) -> io.NodeOutput:
        found = loader.load(checkpoint, model_type, LARGE_PRECISIONS[precision])
        return io.NodeOutput(
            found.model, found.clip, found.clip_vision, found.vae, loader.tell(found), ui={"text": [loader.tell(found)]}
        )


class StoryReelDynamiCrafterConditioning(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterConditioning",
            display_name="DynamiCrafter Conditioning (StoryReel)",
            category=CATEGORY,
            description="What a shot shows and where it starts: prompts, start picture, and for interpolation its end.",
            search_aliases=["image to video", "interpolate", "loop"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="The prompt, by the text encoder of SD2.x; 77 tokens are read."
                ),
                io.Conditioning.Input("negative", tooltip="The published programs leave it empty."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder: CLIP ViT-H/14."),
                io.Vae.Input("vae", tooltip="The autoencoder, of SD1.x, SD2.x or of the checkpoint."),
                io.Image.Input(
                    "start_image", tooltip="The first picture; scaled to cover the size, its middle cut out."
                ),
                io.Image.Input("end_image", optional=True, tooltip="For interpolate: the last picture, of equal size."),
                io.Combo.Input(
                    "mode",
                    options=list(conditioning.MODES),
                    default="animate",
                    tooltip="animate: the picture comes to life. interpolate: from start to end. loop: back to the "
                    "start. The last two need a checkpoint trained for it (512_interp, ToonCrafter).",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the shot; a multiple of 64."),
                io.Int.Input("height", default=320, min=64, max=4096, step=8, tooltip="Of the shot; a multiple of 64."),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="The published models were trained on 16 and want 16.",
                ),
                io.Int.Input(
                    "fs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="0: what the checkpoint is used with. For the 256 checkpoint a frame stride, 1 to 6, more "
                    "is more motion. For all others frames a second (512: 15 to 30, 1024: 5 to 15, interpolation: 5 "
                    "to 30, loops 5), less is more motion.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Prompt and picture."),
                io.Conditioning.Output(
                    display_name="image_only", tooltip="The negative's text with the picture, for DynamiCrafter Guider."
                ),
                io.Conditioning.Output(display_name="negative", tooltip="The negative's text and no picture."),
                io.Latent.Output(display_name="latent", tooltip="An empty clip of this size."),
            ],
        )

    @classmethod
    def execute(
        cls, positive, negative, clip_vision, vae, start_image, mode, width, height, frames, fs, end_image=None
    ) -> io.NodeOutput:
        told = conditioning.condition(
            positive, negative, clip_vision, vae, start_image, end_image, mode, width, height, frames, fs or None
        )
        said = conditioning.tell_frames(frames)
        return io.NodeOutput(*told, ui={"text": [said]} if said else None)


class StoryReelDynamiCrafterGuider(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDynamiCrafterGuider",
            display_name="DynamiCrafter Guider (StoryReel)",
            category=CATEGORY,
            description="Guidance by text and by picture, each with a scale of its own. Equal scales are ordinary CFG.",
            search_aliases=["multi-condition CFG", "guidance rescale"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.Conditioning.Input("positive", tooltip="From DynamiCrafter Conditioning."),
                io.Conditioning.Input("image_only", tooltip="From DynamiCrafter Conditioning."),
                io.Conditioning.Input("negative", tooltip="From DynamiCrafter Conditioning."),
                io.Float.Input(
                    "cfg_text", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompt leads."
                ),
                io.Float.Input(
                    "cfg_image", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="How strongly the picture leads."
                ),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pulls contrast back that guidance exaggerates, over the whole clip: .7 as published for "
                    "512 and 1024, 0 for 256.",
                ),
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
            description="Guidance rescale over the whole clip, for KSampler. The host's RescaleCFG looks at single "
            "frames.",
            search_aliases=["guidance rescale", "RescaleCFG"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.Float.Input(
                    "cfg_rescale",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=".7 as published, 0 for the 256 checkpoint; 0 changes nothing.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with its guidance rescaled.")],
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
            description="How much the layers look at the picture's tokens. Outer layers shape its look, middle layers "
            "what moves and how.",
            search_aliases=["image cross-attention", "lambda"],
            inputs=[
                io.Model.Input("model", tooltip="A DynamiCrafter model."),
                io.Float.Input(
                    "outer", default=1.0, min=0.0, max=4.0, step=0.01, tooltip="1 as published, 0 without the picture."
                ),
                io.Float.Input(
                    "middle",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="The same for the layers at a quarter of the resolution and below; less lets more move.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with its gate set.")],
        )

    @classmethod
    def execute(cls, model, outer, middle) -> io.NodeOutput:
        return io.NodeOutput(sampling.patch_gate(model, outer, middle))


class StoryReelDDIMSampler(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDDIMSampler",
            display_name="DDIM Sampler (StoryReel)",
            category=CATEGORY,
            description="DDIM with eta, exact to the last step: what DynamiCrafter was published with.",
            search_aliases=["DDIM", "eta"],
            inputs=[
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fresh noise at every step: 1 as published.",
                ),
                io.Boolean.Input(
                    "keep_clean",
                    default=False,
                    advanced=True,
                    tooltip="With a noise mask: what is kept goes in without noise at every step, as in "
                    "DynamiCrafter's own program.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, eta, keep_clean) -> io.NodeOutput:
        return io.NodeOutput(sampling.DDIM(eta, keep_clean))


class StoryReelDDIMSigmas(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelDDIMSigmas",
            display_name="DDIM Sigmas (StoryReel)",
            category=CATEGORY,
            description="The published timesteps as SIGMAS, for every sampler.",
            search_aliases=["uniform", "uniform_trailing", "timestep spacing"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample."),
                io.Combo.Input(
                    "spacing",
                    options=list(sampling.schedule.SPACINGS),
                    default="uniform_trailing",
                    tooltip="As published: uniform_trailing for 512 and 1024, uniform for 256, leading for ModelScope.",
                ),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="50 as published; any number works."),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, spacing, steps) -> io.NodeOutput:
        return io.NodeOutput(sampling.sigmas_of(model, spacing, steps))


class StoryReelToonCrafterDecode(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelToonCrafterDecode",
            display_name="ToonCrafter Decode (StoryReel)",
            category=CATEGORY,
            description="Decodes a clip with details of its two given pictures. VAE Decode on the same VAE gives the "
            "plain result, frame by frame.",
            search_aliases=["dual reference", "VAE decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled clip, 16 frames as published."),
                io.Vae.Input("vae", tooltip="The autoencoder of a ToonCrafter checkpoint."),
                io.Image.Input("start_image", tooltip="The picture that the clip starts from."),
                io.Image.Input("end_image", tooltip="The picture that it ends at."),
                io.Boolean.Input(
                    "refine_middle",
                    default=False,
                    advanced=True,
                    tooltip="Decode a second time without the second and the second last frame, and take the middle "
                    "two frames from there, as the published app does.",
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
    StoryReelDDIMSampler,
    StoryReelDDIMSigmas,
    StoryReelToonCrafterDecode,
]
