"""Whatever runs a model for many requests at once, behind one seam. Knows no HTTP."""
