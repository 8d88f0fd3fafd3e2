"""What users run: a cell over whole sequences."""
