"""One file for each group of routes: it reads a body, asks the engine, and shapes the answer."""
