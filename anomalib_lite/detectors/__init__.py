from anomalib_lite import libraries as libraries  # first: it controls what other libraries import
