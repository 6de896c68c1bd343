"""Training and measuring Storyworld's models: what `train_storyworld.py` and `measure_storyworld.py` are made of."""
