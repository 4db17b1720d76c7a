"""TST (arXiv 2302.13074) on DiffAct, ASFormer or any backbone: supervised segmentation."""
