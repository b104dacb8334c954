"""Generative processes: noise, target and one reverse step; no networks."""
