"""Crystals on their way in: readers of files, the packed store, and the loader of batches."""
