"""StreamingT2V: extends a clip to a long video."""

from dataclasses import fields
from typing import Any, TypeVar, cast

from comfy_api.latest import io

from ..host.common.kept_files import kept_files
from ..host.common.loading import LARGE_PRECISIONS
from ..host.extend import extend
from ..host.extend.drift import DriftLimits
from ..host.streaming import loader
from .node import PreflightNode, StoryReelNode
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/StreamingT2V"


class StoryReelStreamingLoader(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelStreamingLoader",
            display_name="Load StreamingT2V (StoryReel)",
            category=CATEGORY,
            description="Loads a published checkpoint of StreamingT2V, StreamingSVD, ModelScope text-to-video or "
            "MS-Vid2Vid.",
            search_aliases=["StreamingT2V", "StreamingSVD", "ModelScope", "Vid2Vid", "long video", "extend"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=loader.checkpoint_names(),
                    tooltip="A file in models/checkpoints or models/diffusion_models: streaming_t2v.ckpt or the same "
                    "weights as safetensors; StreamingSVD's model.safetensors; ModelScope text-to-video in its own or "
                    "in diffusers' layout; MS-Vid2Vid's non_ema_0035000.pth. ModelScope's weights and models based "
                    "on them are not for commercial use (CC-BY-NC); Stable Video Diffusion's are for research.",
                ),
                io.Combo.Input(
                    "model_type",
                    options=["auto", *loader.CHOICES],
                    default="auto",
                    tooltip="Type of the checkpoint. auto detects it from the weights. ModelScope text-to-video and "
                    "MS-Vid2Vid differ in the file's name only: choose the type here if you renamed the file. "
                    "model_info shows the result.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(LARGE_PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the video model. auto: ComfyUI's choice.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for any sampler. The frames are the batch of its latent."),
                io.Clip.Output(
                    tooltip="The text encoder, if the file contains one. Otherwise use Load CLIP with the text encoder "
                    "of SD2.x. StreamingSVD reads no text."
                ),
                io.Vae.Output(
                    tooltip="The VAE, if the file contains one. Otherwise use Load VAE with "
                    "vae-ft-mse-840000-ema-pruned.safetensors."
                ),
                io.ClipVision.Output(
                    tooltip="The image encoder, if the file contains one. Otherwise use Load CLIP Vision with "
                    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors. ModelScope and MS-Vid2Vid read no image."
                ),
                io.String.Output(
                    display_name="model_info",
                    tooltip="The detected type of the checkpoint, its use and license, and what the file lacks.",
                ),
            ],
        )

    @classmethod
    def execute(cls, checkpoint, model_type, precision) -> io.NodeOutput:
        found = loader.load(checkpoint, model_type, LARGE_PRECISIONS[precision])
        message = loader.describe_checkpoint(found)
        return io.NodeOutput(found.model, found.clip, found.vae, found.clip_vision, message, ui={"text": [message]})


class StoryReelExtendVideo(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelExtendVideo",
            display_name="Extend Video (StoryReel)",
            category=CATEGORY,
            description="Extends a clip chunk by chunk to any length. Each chunk begins with the last frames of the "
            "chunk before. Finished chunks are kept on disk, and an interrupted run resumes from them.",
            search_aliases=["long video", "StreamingT2V", "StreamingSVD", "continue", "last frame", "autoregressive"],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="StreamingT2V, StreamingSVD, DynamiCrafter, Stable Video Diffusion, Wan image-to-video, "
                    "Wan VACE, LTX-Video, LTX-2 or HunyuanVideo 1.5: the type of the model decides how chunks are "
                    "generated.",
                ),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Sampler.Input(
                    "sampler",
                    tooltip="The sampler for one clip of this model. StreamingT2V: DDIM Sampler with eta 1.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The sigmas for one clip of this model. StreamingT2V: DDIM Sigmas, leading, 50 steps.",
                ),
                io.MultiType.Input(
                    "frames",
                    types=[io.Image, io.Video],
                    lazy=True,
                    tooltip="The clip to extend, as IMAGE or VIDEO. The result has its size. A VIDEO is read frame by "
                    "frame and keeps its audio.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="One prompt per chunk, as from Encode Story. Further chunks use the last prompt. Stable "
                    "Video Diffusion reads no text, but frame rate, motion and augmentation from "
                    "SVD_img2vid_Conditioning.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Negative prompts: one per chunk, or one for all."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The model's image encoder. Not needed by StreamingT2V at apm_strength 0, nor by Wan 2.2, "
                    "Wan VACE and LTX.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="The anchor image, instead of a frame of the clip. For Wan VACE: its reference. For a "
                    "DynamiCrafter interpolation checkpoint: the end image of each chunk, one image per chunk; further "
                    "chunks use the last image.",
                ),
                io.Int.Input(
                    "anchor",
                    default=0,
                    min=-(2**31),
                    max=2**31,
                    tooltip="Number of the clip's frame that conditions all chunks, from 0; -1 is the last. "
                    "StreamingT2V: the input of APM (published: 0). StreamingSVD: the conditioning image (published: "
                    "6). DynamiCrafter interpolation: the end image of every chunk.",
                ),
                io.Int.Input(
                    "chunks",
                    default=4,
                    min=1,
                    max=100_000,
                    tooltip="Number of chunks to add. The video gets chunks x (chunk_length - overlap) more frames.",
                ),
                io.Int.Input(
                    "chunk_length",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames per chunk, overlap included. 0: as trained. StreamingT2V and DynamiCrafter: 16, "
                    "StreamingSVD: 25, Stable Video Diffusion: 14 (use 25 for XT), Wan: 81, LTX and "
                    "HunyuanVideo 1.5: 121.",
                ),
                io.Int.Input(
                    "overlap",
                    default=0,
                    min=0,
                    max=4095,
                    tooltip="Frames that a chunk shares with the clip before it. 0: as published. StreamingT2V: 8, "
                    "StreamingSVD: 7, Wan VACE: 17, LTX: 25, others: 1. Wan and HunyuanVideo 1.5 also "
                    "support 5, 9, 13 and so on.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale. StreamingT2V and DynamiCrafter: 7.5 as published. StreamingSVD: 3, with "
                    "VideoLinearCFGGuidance from 1.5. Stable Video Diffusion: 2.5. Wan: about 5.",
                ),
                io.Float.Input(
                    "cam_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Strength of the short-term memory (CAM) of StreamingT2V and StreamingSVD. 1 as published, "
                    "0 for none.",
                ),
                io.Float.Input(
                    "apm_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Strength of the long-term memory (APM) of StreamingT2V. 1 as published, 0 for none.",
                ),
                io.Float.Input(
                    "color_match",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Matches the colors of each chunk (mean and standard deviation of red, green and blue) to "
                    "those of the anchor, against color drift. 0 as published.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise. Chunk n uses seed + n. An interrupted run resumes with the same seed "
                    "only.",
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=0.1,
                    max=240.0,
                    step=0.1,
                    tooltip="Frame rate if frames is an IMAGE. A VIDEO keeps its own.",
                ),
                io.Boolean.Input(
                    "output_images",
                    default=False,
                    tooltip="Read the whole video into memory for the IMAGE output. This takes 12 bytes per pixel and "
                    "frame.",
                ),
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip="The low-noise expert of Wan 2.2 14B; model is then the high-noise expert. It continues at "
                    "switch_step with the noise that is left.",
                ),
                io.Int.Input(
                    "switch_step",
                    default=0,
                    min=0,
                    max=10_000,
                    optional=True,
                    tooltip="The step from which low_noise_model samples, as end_at_step of KSampler (Advanced): 10 of "
                    "20, 2 of 4. 0: as published, at the first sigma below 0.9 (VACE: 0.875).",
                ),
                io.Float.Input(
                    "max_color_drift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="Stop before the first chunk that ends with mean red, green or blue further than this from "
                    "the clip's frame `anchor`, in percent of the full range. 0: never.",
                ),
                io.Float.Input(
                    "max_sharpness_drift",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    optional=True,
                    tooltip="Stop before the first chunk that ends sharper or softer than the clip's frame `anchor` by "
                    "more than this, in percent of its sharpness. 0: never.",
                ),
                io.Float.Input(
                    "min_likeness",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Stop before the first chunk whose last frames are less like the clip's frame `anchor` "
                    "than this: the cosine of the embeddings of clip_vision. 0: never.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The clip and all chunks, as a file."),
                io.Image.Output(tooltip="All frames, if output_images is on."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        extend.extender_of(picked(extend.ChunkInputs, inputs))
        picked(DriftLimits, inputs).check(inputs.get("clip_vision"))

    @classmethod
    def execute(cls, frames, fps, chunks, anchor, color_match, output_images, **inputs) -> io.NodeOutput:
        video, images = extend.extend(
            cls.hidden.dynprompt,
            cls.hidden.unique_id,
            picked(extend.ChunkInputs, inputs),
            frames=frames,
            fps=fps,
            chunks=chunks,
            anchor=anchor,
            color_match=color_match,
            output_images=output_images,
            limits=picked(DriftLimits, inputs),
        )
        kept_files.add(video.get_stream_source())
        return io.NodeOutput(video, images)


Group = TypeVar("Group")


def picked(group: type[Group], inputs: dict) -> Group:
    """Those of a node's inputs that are fields of this dataclass."""
    names = {field.name for field in fields(cast(Any, group))}
    return group(**{name: value for name, value in inputs.items() if name in names})


NODES = [StoryReelStreamingLoader, StoryReelExtendVideo]
