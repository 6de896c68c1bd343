"""The Semantic Motion Predictor in the host: prediction, application, training."""
