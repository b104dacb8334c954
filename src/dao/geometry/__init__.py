"""Pure functions on lattices, the torus and cells: no models."""
