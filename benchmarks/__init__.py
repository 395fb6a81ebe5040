"""Speed, as ratios against a named peer measured in the same run. Not part of the tests."""
