"""Which examples come from the same sentence, in one task or in several.

Predictions are stored without texts, from short to long. So the texts are read from the data set that the run's record
names and are put into that order by its tokenizer; that the labels agree shows that the order is right. Runs need not
be scored again for it.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from pipeline.results.records import Record

TOKENIZER = "tokenizer.json"


def of_sentences(record: Record, predictions: pd.DataFrame) -> list[str] | None:
    """Returns a label for each row of a classification run's predictions, the same for those of one sentence.

    Args:
        record: The run's `metrics.json`; its paths are relative to the working directory.
        predictions: Columns `split` and `label`.

    Returns:
        None where the data or the tokenizer is not at hand any more, or is another than the run's.
    """
    config, meta = record.run_info.config, record.meta_info
    data, model = (source.path if source else None for source in (meta.data, meta.model))
    if data is None or model is None or not Path(model, TOKENIZER).is_file():
        return None
    task = config["task"]
    columns, found = tuple(task["classification"]["text_columns"]), []
    for split, rows in predictions.groupby("split", sort=False):
        folder = Path(data, task["subset"] or ".")
        ordered = _ordered(folder, str(split), columns, Path(model), config["budget"]["max_length"])
        if ordered is None or len(ordered) != len(rows):
            return None
        if not np.allclose(ordered.label, rows.label, rtol=1e-3, atol=1e-3):
            return None
        found += ordered.cluster.tolist()
    return found


def sentence(texts: list[str]) -> str:
    """Returns what names an example's cluster: the words of its longest text, in any order.

    The longest is what was drawn: of several texts, the shorter ones are hypotheses, questions or what is left of it.
    """
    return " ".join(sorted(max(texts, key=len).lower().split()))


@lru_cache(maxsize=64)
def _ordered(
    folder: Path, split: str, columns: tuple[str, ...], model: Path, max_length: int
) -> pd.DataFrame | None:
    """Returns the `label` and `cluster` of a split's examples in the order of `pipeline.data.glue`."""
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        return None
    rows = pd.concat([pd.read_parquet(file, columns=[*columns, "label"]) for file in files])
    tokenizer = Tokenizer.from_file(str(model / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    texts = rows[list(columns)].to_numpy().tolist()
    encoded = tokenizer.encode_batch([tuple(one) if len(columns) > 1 else one[0] for one in texts])
    order = np.argsort([len(one.ids) for one in encoded], kind="stable")
    return rows[["label"]].assign(cluster=[sentence(one) for one in texts]).iloc[order]
