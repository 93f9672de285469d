"""Renders the built-in product: crops, panels and ten defects, with ground truth."""
