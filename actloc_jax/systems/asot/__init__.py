"""ASOT (arXiv 2404.01518): unsupervised segmentation by optimal transport between frames and actions."""
