"""One module a topic; each holds the lines of its topic."""
