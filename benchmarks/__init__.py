"""Compares the layer with its peers and with the limits of what it stands on: see __main__."""
