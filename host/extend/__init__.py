"""A long video, chunk by chunk, each on disk before the next."""
