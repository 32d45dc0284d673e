"""What every room uses: typed options, provenance, files that are complete or absent, clustering."""
