"""The test harness: a real host in the process, a real server beside it, a real browser before it, tiny checkpoints."""
