"""Builds repositories of a mirror: `python -m pipeline.assets --mirror mini datasets/nyu-mll/glue`."""

import argparse
from pathlib import Path

from pipeline.assets.mirror import build, read_config
from pipeline.job import job


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.assets", description=__doc__)
    parser.add_argument("repository", nargs="*", help="which to build; all of the mirror's by default")
    parser.add_argument(
        "--mirror", default="mini", help="a file of conf/mirror, without .yaml (default: mini)"
    )
    parser.add_argument("--root", type=Path, help="the mirror's folder (default: CACHE/mirror/MIRROR)")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="where packages stay (default: .cache)"
    )
    arguments = parser.parse_args()
    config = read_config(arguments.mirror)
    root = arguments.root or arguments.cache / "mirror" / arguments.mirror
    for name in arguments.repository or config.repositories:
        print(f"built {build(config, name, root, arguments.cache / 'packages')}")


if __name__ == "__main__":
    main()
