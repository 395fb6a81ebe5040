"""Ranks block sizes of the attention kernel for each chip, and keeps the best ones as defaults.

    python -m benchmarks.attention_blocks [TOPOLOGY ...]

rewrites the entries of these chips in `crystools_pipelines/parallel/defaults.json`, for the largest attention
of two videos of 720p, with heads of 128 and of 64. Nothing is run on a TPU: the seconds are estimates.
"""

import argparse
import json

from benchmarks.defaults import how_found, keep
from benchmarks.plans import answer
from crystools_pipelines.planning.topologies import TOPOLOGIES

TOPOLOGIES_TUNED = ("v5e-8", "v5p-8", "v6e-8")
MODELS_TUNED = ("wan2.1-t2v", "cogvideox-t2v")


def main() -> None:
    """Tunes, prints, and writes after each tuning; the other entries stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topologies", nargs="*", metavar="TOPOLOGY", help=", ".join(TOPOLOGIES))
    for topology in parser.parse_args().topologies or TOPOLOGIES_TUNED:
        for model in MODELS_TUNED:
            command = f"plan {model} --topology {topology} --tune-attention"
            tuning = answer(command)
            blocks = tuning["blocks"]
            key = {"chip": TOPOLOGIES[topology].chip_name, "head_dim": tuning["shape"]["head_dim"]}
            seconds = {" x ".join(map(str, b["sizes"].values())): b["estimated_seconds"] for b in blocks}
            found = {"blocks": blocks[0]["sizes"], "estimated_seconds": seconds, **how_found(command)}
            print(json.dumps(key | found), flush=True)
            keep("attention_blocks", key, found)


if __name__ == "__main__":
    main()
