"""Finding every activation call of a running model."""
