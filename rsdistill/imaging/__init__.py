"""Pixels and spectra, whatever they are for: sizes, normalisation, composites, indices, similarity."""
