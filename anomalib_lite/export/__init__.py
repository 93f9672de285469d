"""A trained model as one file that other programs run: its graph, what the file says of itself, and what reads it."""
