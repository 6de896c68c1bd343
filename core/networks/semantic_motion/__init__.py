"""StoryDiffusion's Semantic Motion Predictor."""
