"""One file an algorithm: equation, source, pure loss, settings. The file's name is the algorithm's name."""
