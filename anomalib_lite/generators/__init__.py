"""Generators that learn from OK images and draw new ones."""
