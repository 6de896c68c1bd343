"""AnimateDiff's motion modules for the UNet of Stable Diffusion 1.5."""
