"""Augmentation of training batches, test-time augmentation, synthetic defects and colour matching."""
