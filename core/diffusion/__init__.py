"""Diffusion in plain torch: schedules, samplers' single steps, guidance. Functions of tensors, with no state."""
