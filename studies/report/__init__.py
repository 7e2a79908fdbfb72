"""Tables, figures and the page: what a study shows."""
