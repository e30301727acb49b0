"""Running compiled models to learn something: how fast they are, and how right."""
