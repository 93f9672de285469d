"""Judges images over HTTP with a trained run."""
