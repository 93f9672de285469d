"""Answers images over HTTP with a trained run."""
