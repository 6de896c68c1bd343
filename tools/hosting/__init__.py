"""A real ComfyUI for the demo, the workflows and the tests: its folders, its server with a client, and a browser."""
