"""CrysDB, the pretraining set of the paper (section 2.2): built from databases and files, and described."""
