"""The model card of a run's weights, `model/README.md`: what a stranger has to know, from the run's record."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline import files
from pipeline.config.metrics import METRICS
from pipeline.results import records

GIB = 2**30


def write(directory: Path, record: dict[str, Any]) -> None:
    """Writes the card beside a run's weights, where it has saved any; PEFT's own names a folder as the base model."""
    folder = directory / records.SAVED_MODEL
    if folder.is_dir():
        files.write_text(folder / "README.md", card(record))


def card(record: dict[str, Any]) -> str:
    """Returns the card in Markdown, with the metadata that the hub reads.

    Args:
        record: The run's `metrics.json`.
    """
    run, info, meta = (record[section] for section in records.SECTIONS)
    config, model, data = run["config"], meta["model"], meta["data"]
    rows = {
        "method": f"{config['method']['label']}{_adapters(config)}",
        "base model": _named(model),
        "data": f"{config['task']['label']}, {_named(data)}",
        "score": _score(info, config["seed"]),
        "trained parameters": f"{info['trainable_parameters']:,}",
        "memory": _memory(info["step_memory_bytes"]),
        "command": f"`{run['command']}`",
        "code": f"commit {run['git_commit'] or 'unknown'}{', with changes' * bool(run['git_dirty'])}",
        "versions": ", ".join(f"{name} {version}" for name, version in meta["packages"].items() if version),
        "licences": f"base model: {_licence(model)}; data: {_licence(data)}",
    }
    title = f"{config['method']['label']}: {model['repository']} on {config['task']['label']}"
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
    stand_ins = [
        f"> A stand-in: {text}." for part in (model, data) if (text := part["about"].get("stand_in"))
    ]
    return "\n\n".join([f"---\n{_metadata(record).to_yaml()}\n---", f"# {title}", *stand_ins, table]) + "\n"


def _metadata(record: dict[str, Any]) -> ModelCardData:
    run, info, meta = (record[section] for section in records.SECTIONS)
    config, best = run["config"], info["best"]
    adapters = config["method"]["kind"] in ("lora", "lora-fa", "prompt-tuning")
    score = {
        "task_type": config["task"]["kind"],
        "dataset_type": meta["data"]["repository"],
        "dataset_name": config["task"]["label"],
        "metric_type": info["metric"],
    }
    return ModelCardData(
        base_model=meta["model"]["repository"],
        datasets=[meta["data"]["repository"]],
        library_name="peft" if adapters else "transformers",
        tags=[config["method"]["name"]],
        model_name=f"{config['model']['name']}-{config['method']['name']}-{config['task']['name']}",
        eval_results=[EvalResult(**score, metric_value=best["score"])] if best else None,
    )


def _adapters(config: dict[str, Any]) -> str:
    return f", rank {config['rank']}, α {config['alpha']:g}" if config["rank"] is not None else ""


def _named(source: dict[str, Any]) -> str:
    """Returns a repository by its id on the hub, with its commit or the version of a mirror's files."""
    revision = source["commit"] or source.get("version")
    return f"{source['repository']}{f' ({revision})' * bool(revision)}"


def _licence(source: dict[str, Any]) -> str:
    packages = source["about"].get("packages", {}).values()
    known = {package["licence"] for package in packages if package.get("licence")}
    return ", ".join(sorted(known)) or f"as https://huggingface.co/{source['repository']} states"


def _memory(kept: int | None) -> str:
    return "not measured" if kept is None else f"{kept / GIB:.2f} GiB of tensors that a step keeps"


def _score(info: dict[str, Any], seed: int) -> str:
    if not info["best"]:
        return info["status"].replace("_", " ")
    metric = METRICS[info["metric"]]
    points = f"{metric.points(info['best']['score']):.{metric.digits}f}"
    return f"{metric.label} {points} on the validation data, seed {seed}"
