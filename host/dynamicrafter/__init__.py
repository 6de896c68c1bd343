"""DynamiCrafter in the host: loader, model, conditioning, sampling, decoding."""
