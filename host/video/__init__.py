"""Videos of the host: files, frames, subtitles."""
