"""Exports a trained model as one file for other programs: the graph, its file formats, and a session to run it."""
