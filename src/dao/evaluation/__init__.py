"""How good predictions are: matching against known crystals."""
