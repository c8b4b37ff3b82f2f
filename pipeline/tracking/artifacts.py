"""What a run's adapter is in Weights & Biases: an artifact that says which model and data it was made of."""

from typing import TYPE_CHECKING, Any

from pipeline.results import records

if TYPE_CHECKING:
    from pipeline.tracking.runs import Job


def log_adapter(run: Any, job: "Job", record: dict[str, Any]) -> None:
    """Logs the adapter as an artifact that says what it was made of; the files stay where they are."""
    from wandb import Artifact

    folder = job.directory / records.SAVED_MODEL
    if not (folder / "adapter_config.json").is_file():
        return
    sources = {"model": record["meta_info"]["model"], "dataset": record["meta_info"]["data"]}
    adapter = Artifact(
        f"adapter-{job.id}",
        "adapter",
        metadata={
            "config_hash": job.config_hash,
            "git_commit": record["run_info"]["git_commit"],
            "base_model": sources["model"],
            "data": sources["dataset"],
        },
    )
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        adapter.add_file(str(file), policy="immutable", skip_cache=True)
    if not run.offline:  # `use_artifact` asks the server
        for kind, source in sources.items():
            used = Artifact(source["repository"].replace("/", "--"), kind, metadata=source)
            used.add_reference(_address(kind, source), checksum=False)
            run.use_artifact(used)
    run.log_artifact(adapter)


def _address(kind: str, source: dict[str, Any]) -> str:
    folder = "datasets/" if kind == "dataset" else ""
    commit = source["commit"] or source["revision"] or "main"
    return f"https://huggingface.co/{folder}{source['repository']}/tree/{commit}"
