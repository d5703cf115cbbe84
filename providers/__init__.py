"""One module a provider behind one Protocol (`providers.contract`), and the sandbox that stands in for them."""
