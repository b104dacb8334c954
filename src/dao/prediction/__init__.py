"""The main path: formula -> cells -> proposals -> deduplicate -> rank -> CIF and JSON."""
