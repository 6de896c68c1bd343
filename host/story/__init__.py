"""Images and shots of a story: sizes, styles, shots on disk."""
