"""Relaxation by density functional theory through ASE, which generated structures are compared with (``dao dft``)."""
