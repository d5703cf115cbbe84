"""The pool of single calls: what may go out now (pace, concurrency, breaker, turns), and what became of it."""
