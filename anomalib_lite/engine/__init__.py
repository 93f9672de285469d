"""What the verbs do, on objects: nothing below `build` sees a configuration."""
