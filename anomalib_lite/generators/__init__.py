"""New OK images from OK images."""
