"""What the small T5 is pretrained on: values, labels and descriptions, and sentences of the task if it is to know it.

T5 was pretrained on WMT's English and Romanian, too (Raffel et al., 2020, §2.4). The skeletons and values that the task
holds out for validation and test are in none of it.
"""

from itertools import islice

import numpy as np

from pipeline.assets.builders.wmt16.cldr import Cldr
from pipeline.assets.builders.wmt16.frames import FRAMES as TASK_FRAMES
from pipeline.assets.builders.wmt16.frames import WORDS as TASK_WORDS
from pipeline.assets.builders.wmt16.pairs import Pair, Words, sentences

WORDS: Words = {
    **TASK_WORDS,
    "thing": [
        ("the box", "cutia"),
        ("the bag", "geanta"),
        ("the stone", "piatra"),
        ("the bicycle", "bicicleta"),
        ("the statue", "statuia"),
        ("the machine", "mașina"),
        ("the wall", "zidul"),
        ("the clock", "ceasul"),
        ("the suitcase", "valiza"),
        ("the table", "masa"),
    ],
    "container": [
        ("the bottle", "sticla"),
        ("the barrel", "butoiul"),
        ("the glass", "paharul"),
        ("the tank", "rezervorul"),
        ("the bucket", "găleata"),
        ("the lake", "lacul"),
    ],
    "way": [
        ("the road", "drumul"),
        ("the river", "râul"),
        ("the bridge", "podul"),
        ("the tunnel", "tunelul"),
        ("the street", "strada"),
        ("the path", "cărarea"),
    ],
    "land": [
        ("the garden", "grădina"),
        ("the room", "camera"),
        ("the forest", "pădurea"),
        ("the park", "parcul"),
        ("the island", "insula"),
        ("the field", "câmpul"),
    ],
    "person": [
        ("my sister", "sora mea"),
        ("my brother", "fratele meu"),
        ("the doctor", "doctorul"),
        ("the guide", "ghidul"),
        ("the student", "studentul"),
        ("the mayor", "primarul"),
        ("the writer", "scriitoarea"),
        ("the child", "copilul"),
    ],
}

LABELS = [
    ("weight", "greutate", "mass"),
    ("load", "încărcătură", "mass"),
    ("volume", "volum", "volume"),
    ("length", "lungime", "length"),
    ("height", "înălțime", "length"),
    ("width", "lățime", "length"),
    ("depth", "adâncime", "length"),
    ("distance", "distanță", "distance"),
    ("area", "suprafață", "area"),
    ("duration", "durată", "duration"),
    ("age", "vârstă", "span"),
    ("temperature", "temperatură", "temperature"),
    ("price", "preț", "money"),
    ("cost", "cost", "money"),
    ("salary", "salariu", "money"),
    ("date", "data", "date"),
    ("date of birth", "data nașterii", "past_date"),
    ("deadline", "termen", "future_weekday"),
    ("last change", "ultima modificare", "ago"),
    ("next change", "următoarea modificare", "ahead"),
    ("holidays", "vacanță", "dates"),
    ("month", "luna", "past_month"),
    ("time", "ora", "time"),
    ("opening hours", "program", "hours"),
    ("countries", "țări", "countries"),
    ("languages", "limbi", "languages"),
    ("currencies", "monede", "currencies"),
]

DESCRIPTIONS = [
    ("{thing} weighs {mass}.", "{thing} cântărește {mass}."),
    ("{thing} costs {money}.", "{thing} costă {money}."),
    ("{thing} is {duration} old.", "{thing} are o vechime de {duration}."),
    ("{thing} is {length} high.", "{thing} are o înălțime de {length}."),
    ("{container} holds {volume}.", "{container} are o capacitate de {volume}."),
    ("{way} is {distance} long.", "{way} are o lungime de {distance}."),
    ("{way} is {length} wide.", "{way} are o lățime de {length}."),
    ("{land} has an area of {area}.", "{land} are o suprafață de {area}."),
    ("{person} speaks {languages}.", "{person} vorbește {languages}."),
    ("{person} knows people from {countries}.", "{person} cunoaște oameni din {countries}."),
    ("{person} has {money}.", "{person} are {money}."),
    ("{person} only has {currencies}.", "{person} are numai {currencies}."),
    ("{person} was born on {past_date}.", "{person} s-a născut pe {past_date}."),
    ("it is {time}.", "este ora {time}."),
    ("today is {past_weekday}.", "astăzi este {past_weekday}."),
    ("it is valid until {future_date}.", "este valabil până la {future_date}."),
    ("{buyer} has {mass} of {goods}.", "{buyer} are {mass} de {goods}."),
    ("{buyer} wants {volume} of {liquid}.", "{buyer} vrea {volume} de {liquid}."),
    ("{vehicle} has a delay of {span}.", "{vehicle} are o întârziere de {span}."),
    ("{document} is from {past_date}.", "{document} este din {past_date}."),
    ("{document} exists in {languages}.", "{document} există în {languages}."),
    ("{place} is {distance} away.", "{place} este la {distance} distanță."),
    ("{translator} is looking for {languages}.", "{translator} caută {languages}."),
    ("{event}: {time}, {hours}.", "{event}: {time}, {hours}."),
    ("{material}: {length}", "{material}: {length}"),
    ("{crop}: {mass}", "{crop}: {mass}"),
    ("{mass} or {volume}?", "{mass} sau {volume}?"),
    ("at least {length}", "cel puțin {length}"),
    ("more than {money}", "mai mult de {money}"),
    ("about {duration}", "aproximativ {duration}"),
    ("less than {distance}", "mai puțin de {distance}"),
]
FRAMES = [Pair(f"{en}: {{{kind}}}", f"{ro}: {{{kind}}}") for en, ro, kind in LABELS]
FRAMES += [Pair(f"{{{kind}}}", f"{{{kind}}}") for _, _, kind in LABELS]
FRAMES += [Pair(en, ro) for en, ro in DESCRIPTIONS]


def read(cldr: Cldr, size: int, task_sentences: int, seed: int) -> list[Pair]:
    """Returns pairs of one to four labels and descriptions in a row, and after them sentences of the task.

    Args:
        cldr: Values in both languages.
        size: Pairs of labels and descriptions, about as long as the task's sentences.
        task_sentences: Sentences that the task's training split might have.
        seed: Decides all of them.
    """
    rng = np.random.default_rng(seed)
    made = sentences(FRAMES, WORDS, cldr.kinds, "train", rng)
    labels = [_join(list(islice(made, int(rng.integers(1, 5))))) for _ in range(size)]
    return labels + list(islice(sentences(TASK_FRAMES, TASK_WORDS, cldr.kinds, "train", rng), task_sentences))


def _join(pairs: list[Pair]) -> Pair:
    return Pair(" ".join(pair.en for pair in pairs), " ".join(pair.ro for pair in pairs))
