"""lm-eval's model of a decoder, which reads once what prompts have in common.

It imports lm-eval, which takes seconds: import it where it is used.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# In a batch, what is shared and padding included: LLaMA-7B's keys and values of so many take 4 GiB. A constant, because
# the last bits of a result depend on what else is in the batch.
TOKENS = 8192
FULL = 0.75  # of the longest row's own tokens, a row of its batch has: the rest is padding

Request = tuple[
    tuple[str, str], list[int], list[int]
]  # its texts; the tokens of its context and continuation
Answer = tuple[float, bool]  # log-likelihood of the continuation; whether no other is likelier


class SharedPromptLM(HFLM):
    """Log-likelihoods of continuations, as HFLM computes them but for the order of the additions.

    Most of a few-shot prompt are exemplars, the same for all the questions of a subject: they are read once for the
    subject. A question is read once for all its choices, which follow it in one row without seeing each other. Logits
    are computed only where they are looked at.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: "tqdm[Any]",
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer)
        assert self.config._attn_implementation == "sdpa", "the masks are sdpa's"
        self._progress = progress

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Answers the requests subject by subject."""
        subjects = defaultdict(list)
        for index, request in enumerate(requests):
            subjects[request.task_name].append(index)
        answers: dict[int, Answer] = {}
        for indices in subjects.values():
            found = super().loglikelihood([requests[index] for index in indices], disable_tqdm=True)
            answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        # What is too long loses its beginning, and with it what it shares.
        whole: dict[tuple[int, ...], list[int]] = defaultdict(list)
        cut: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)  # the last token is not read
            (whole if len(context) <= room else cut)[tuple(context[-room:])].append(index)
        answers: dict[int, Answer] = {}
        for questions in (whole, cut):
            rows = [
                _Row(context, {index: requests[index][2] for index in indices})
                for context, indices in questions.items()
            ]
            for index, answer in self._answer(rows):
                answers[index] = answer
                self._progress.update()
        return [answers[index] for index in range(len(requests))]

    @torch.no_grad()
    def _answer(self, rows: list["_Row"]) -> Iterator[tuple[int, Answer]]:
        """Yields the rows' requests with their answers."""
        if not rows:
            return
        rows = sorted(rows, key=lambda row: -len(row.tokens))
        alike = takewhile(
            lambda tokens: len(set(tokens)) == 1, zip(*(row.context for row in rows), strict=False)
        )
        shared = min(sum(1 for _ in alike), min(len(row.context) for row in rows) - 1)
        beginning = None
        if shared:
            tokens = torch.tensor([rows[0].context[:shared]], device=self.device)
            beginning = self.model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
        while rows:
            longest = len(rows[0].tokens)
            full = sum(len(row.tokens) - shared >= FULL * (longest - shared) for row in rows)
            size = min(full, max(1, TOKENS // longest))
            yield from self._answer_batch(rows[:size], shared, beginning)
            rows = rows[size:]

    def _answer_batch(self, rows: list["_Row"], shared: int, beginning: Any) -> Iterator[tuple[int, Answer]]:
        tokens, positions, branches = (
            pad_sequence([torch.tensor(part[shared:]) for part in parts], batch_first=True).to(self.device)
            for parts in zip(*((row.tokens, row.positions, row.branches) for row in rows), strict=True)
        )
        length = tokens.shape[1]
        visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
        visible &= torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        mask = torch.cat([visible.new_ones(len(rows), length, shared), visible], dim=2)[:, None]
        if beginning is not None:
            beginning = copy.deepcopy(beginning)
            beginning.batch_repeat_interleave(len(rows))
        first = min(len(row.context) for row in rows) - 1  # where the first of the continuations is foretold
        # Places, and not a number of them: the product of a slice is a slow one, row by row.
        kept = torch.arange(first - shared, length, device=self.device)
        logits = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=beginning,
            logits_to_keep=kept,
        ).logits
        for row, foretold in zip(rows, logits, strict=True):
            for (index, continuation), places in zip(row.continuations.items(), row.places, strict=True):
                likelihoods = foretold[[place - first for place in places]].log_softmax(dim=-1)
                chosen = likelihoods[range(len(continuation)), continuation]
                yield index, (float(chosen.sum()), likelihoods.argmax(dim=-1).tolist() == continuation)


@dataclass
class _Row:
    """A context and after it, side by side, its continuations, each without its last token.

    Attributes:
        context: Its tokens.
        continuations: Tokens by the number of the request.
        tokens: All that is read.
        positions: Of the tokens; every continuation begins where the context ends.
        branches: 0 for the context, then a number for each continuation: a token sees its own and the context's.
        places: For each continuation, the places in `tokens` after which its tokens come.
    """

    context: tuple[int, ...]
    continuations: dict[int, list[int]]

    def __post_init__(self) -> None:
        end = len(self.context)
        self.tokens = list(self.context)
        self.positions = list(range(end))
        self.branches = [0] * end
        self.places = []
        for branch, (*read, _) in enumerate(self.continuations.values(), start=1):
            self.places.append([end - 1, *range(len(self.tokens), len(self.tokens) + len(read))])
            self.tokens += read
            self.positions += range(end, end + len(read))
            self.branches += [branch] * len(read)
