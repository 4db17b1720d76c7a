"""TALLFormer (arXiv 2204.01680): detection from pixels, with a long memory of features of chunks not trained on."""
