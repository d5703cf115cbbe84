"""The steps from a file to its answers, each resumable, and the policies that they follow."""
