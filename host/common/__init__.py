"""What every system of this floor stands on: files, folders, messages, conditioning, loading, run folders."""
