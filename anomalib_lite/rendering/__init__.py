"""The built-in product, rendered: its crops, its panels, its ten defects, and the truth about them."""
