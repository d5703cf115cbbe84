"""The benchmark suite: the product against the barest honest program for the same work, and against its peers.

`make bench` runs it. Figures belong here and never into a test: a machine that is busy must not fail a build.
"""
