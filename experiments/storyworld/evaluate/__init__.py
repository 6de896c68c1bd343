"""What measures Storyworld's models."""
