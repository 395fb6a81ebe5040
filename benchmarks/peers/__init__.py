"""The designs of the node packs that ours replace, as programs that can be compiled and are never run."""
