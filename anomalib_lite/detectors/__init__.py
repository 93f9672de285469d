from anomalib_lite import libraries as libraries  # first of all: it decides what they load
