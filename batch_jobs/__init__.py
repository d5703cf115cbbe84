"""Batch jobs: a spreadsheet in, the same spreadsheet back with columns written by an LLM."""
