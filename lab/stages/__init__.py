"""The stages, in the order they run: generate, filter, train, compare, publish."""
