"""StreamingT2V, arXiv 2403.14773: short-term memory (CAM) and long-term memory (APM) on top of ModelScope's network."""
