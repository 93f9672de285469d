"""Changed images: synthetic defects for choosing without real ones."""
