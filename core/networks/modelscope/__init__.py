"""ModelScope's text-to-video network, arXiv 2308.06571, in the original key layout."""
