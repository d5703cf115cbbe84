"""The HTTP API: parse, call one function, show. No logic of its own."""
