"""What generated images are worth: near the real ones, different from each other, structure kept."""
