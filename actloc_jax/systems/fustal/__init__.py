"""FuSTAL (arXiv 2407.08971): detection from video labels, with pseudo-labels made, filtered and improved."""
