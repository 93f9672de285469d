"""Labelling crops by keyboard in a local web page."""
