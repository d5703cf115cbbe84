"""Reading uploads: what a file is, its rows as text, its snapshot. Refuses what can only be guessed."""
