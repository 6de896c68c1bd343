"""DynamiCrafter, arXiv 2310.12190, and ToonCrafter's decoder, arXiv 2405.17933, in the published key layout."""
