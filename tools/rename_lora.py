"""Gives the layers of a LoRA for ModelScope text-to-video the names that ComfyUI's own LoRA nodes find.

    python tools/rename_lora.py LORA [RENAMED]

LORA: a safetensors file with diffusers' names (unet.down_blocks.0.temp_attentions.0...). The host itself knows those of
spatial layers in some spellings; this knows all of them, temporal layers too. RENAMED: LORA_comfyui.safetensors if not
given.
"""

from __future__ import annotations

import sys
from pathlib import Path

import environment
from environment import SetupError


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        raise SetupError("one file or two are expected: LORA [RENAMED]")
    if (code := environment.rerun(__file__, arguments)) is not None:
        return code
    source = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) > 1 else source.with_name(f"{source.stem}_comfyui.safetensors")
    print(f"{target}: {rename(source, target)}")
    return 0


def rename(source: Path, target: Path) -> str:
    """Write the renamed file; how many of its tensors got other names. Raises SetupError for a file without any."""
    import pack
    from safetensors.torch import load_file, save_file

    pack.load_pack()
    from storyreel.core.networks.modelscope.config import UNetConfig
    from storyreel.core.networks.modelscope.keys import rename_lora

    lora = load_file(source)
    renamed = rename_lora(lora, UNetConfig())
    count = len(renamed.keys() - lora.keys())
    if not count:
        raise SetupError(f"{source} has no layer of ModelScope's UNet under diffusers' names.")
    save_file(renamed, target)
    return f"{count} of {len(lora)} tensors renamed"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"error: {error}")
