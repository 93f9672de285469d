"""Locates products in images and aligns them; used by panel segmentation, template comparison and defect inspection."""
