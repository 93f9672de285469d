"""What the verbs do, on objects: nothing below `build` sees a configuration."""

from anomalib_lite import libraries as libraries  # first of all: it decides what they load
