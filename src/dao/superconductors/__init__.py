"""Superconductors: DAO-G and DAO-P together (paper section 2.5 and appendix 2.3)."""
