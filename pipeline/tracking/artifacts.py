"""What a run's adapter is in Weights & Biases: an artifact that says which model and data it was made of."""

from typing import TYPE_CHECKING, Any

from pipeline.results import records

if TYPE_CHECKING:
    from pipeline.tracking.runs import Job


def log_adapter(run: Any, job: "Job", record: records.Record) -> None:
    """Logs the adapter as an artifact that says what it was made of; the files stay where they are."""
    from wandb import Artifact

    folder = job.directory / records.SAVED_MODEL
    if not (folder / "adapter_config.json").is_file():
        return
    used = {"model": record.meta_info.model, "dataset": record.meta_info.data}
    sources = {kind: material for kind, material in used.items() if material}
    adapter = Artifact(
        f"adapter-{job.id}",
        "adapter",
        metadata={
            "config_hash": job.config_hash,
            "git_commit": record.run_info.git_commit,
            "base_model": records.as_json(record.meta_info.model),
            "data": records.as_json(record.meta_info.data),
        },
    )
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        adapter.add_file(str(file), policy="immutable", skip_cache=True)
    if not run.offline:  # `use_artifact` asks the server
        for kind, source in sources.items():
            made_of = Artifact(source.repository.replace("/", "--"), kind, metadata=records.as_json(source))
            made_of.add_reference(_address(kind, source), checksum=False)
            run.use_artifact(made_of)
    run.log_artifact(adapter)


def _address(kind: str, source: records.Material) -> str:
    folder = "datasets/" if kind == "dataset" else ""
    return f"https://huggingface.co/{folder}{source.repository}/tree/{source.commit or source.revision or 'main'}"
