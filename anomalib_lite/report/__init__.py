"""The report of a run: heat maps, figures and the page."""
