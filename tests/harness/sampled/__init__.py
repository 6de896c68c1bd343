"""Tiny models in the host's sampler: one file a system, each with its conditioning and its `sample`."""
