"""The test harness: a real host in the process, a real server, a real browser, tiny checkpoints."""
