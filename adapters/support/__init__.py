"""What adapters share: downloads, readers of files, networks."""
