"""Finds products in pictures and lays them straight: panel segmentation, template comparison and defects share it."""
