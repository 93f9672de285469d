"""What a person looks at after a run: heat maps, figures and the page."""
