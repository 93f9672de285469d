"""The work behind the commands (training, evaluation, prediction, export); only `build` reads configurations."""

from anomalib_lite import libraries as libraries  # imported first, as it sets what libraries load
