"""Models with data to look at them on."""
