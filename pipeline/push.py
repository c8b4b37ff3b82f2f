"""Uploads what a run has trained, with its model card: `python -m pipeline.push RUN --to organisation/name`.

RUN is the directory of a run, or a file in it. A repository that is not there is made: private, or --public.
`hf auth login` gives this machine your token.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import files
from pipeline.cli import command_line, job
from pipeline.config import checks
from pipeline.errors import AssetError, ConfigError, RecordError
from pipeline.results import records

ADAPTER = "adapter_config.json"


def push(directory: Path, repository: str, public: bool = False) -> str:
    """Uploads a run's weights and card; returns the address of the commit.

    Args:
        directory: Of the run.
        repository: <organisation>/<name> on the hub.
        public: Whether a repository that is made is public.

    Raises:
        RecordError: The run has no record, or no weights.
        AssetError: The hub refuses, or cannot be reached.
    """
    record = records.read(directory)
    if not (directory / records.SAVED_MODEL).is_dir():
        raise RecordError(f"{directory} has no {records.SAVED_MODEL}/: only a trained run can be uploaded")
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from pipeline.results import card

    api = HfApi()
    with TemporaryDirectory() as folder:
        model = Path(folder, records.SAVED_MODEL)
        shutil.copytree(
            directory / records.SAVED_MODEL, model, ignore=shutil.ignore_patterns("validated-*.parquet")
        )
        card.write(model.parent, record)
        assert record.meta_info.model is not None
        _name_base(model / ADAPTER, record.meta_info.model.repository)
        try:
            api.create_repo(repository, private=not public, exist_ok=True)
            words = f"{record.run_info.config['method']['label']}, {directory.name}"
            return str(api.upload_folder(repo_id=repository, folder_path=model, commit_message=words))
        except (HfHubHTTPError, LocalTokenNotFoundError, HTTPError) as error:
            reason = str(error).strip().splitlines()[0]
            raise AssetError(
                f"{repository}: the hub did not take it ({reason}); is `hf auth login` done?"
            ) from error


def _name_base(file: Path, repository: str) -> None:
    """Writes the base model's id on the hub in an adapter's configuration, in place of the folder of this machine."""
    if file.is_file():
        config = json.loads(file.read_text())
        files.write_json(file, {**config, "base_model_name_or_path": repository})


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.push", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory, results/.../seed=N")
    parser.add_argument("--to", required=True, metavar="ORGANISATION/NAME", help="the repository on the hub")
    parser.add_argument("--public", action="store_true", help="for everyone, if the repository is made")
    arguments = parser.parse_args()
    accepts, requirement = checks.repository()["check"]
    if not accepts(arguments.to):
        raise ConfigError(f"--to: {requirement}, got {arguments.to!r}")
    directory = arguments.run.parent if arguments.run.is_file() else arguments.run
    print(push(directory, arguments.to, arguments.public))


if __name__ == "__main__":
    main()
