"""A local web page for labelling crops by keyboard."""
