"""The only code that knows ComfyUI: it hands the host's seams to `core` and core's mathematics to the host."""
