"""Pure torch and numpy: the mathematics of the pack, importable and testable without ComfyUI."""
