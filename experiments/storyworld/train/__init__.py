"""What trains Storyworld's models: data, networks, stages."""
