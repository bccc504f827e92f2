"""The HTTP side of serving: routes, what passes before them, and what clients are told. Knows engines by their seam."""
