"""Runs compared: which setting is better, by how much, and whether so few seeds can tell."""
