"""The toy study: does a ranking of pairs learn what a ranking of single responses can't? (arXiv 2502.01237, App. H)"""
