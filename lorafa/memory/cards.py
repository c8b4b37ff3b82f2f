"""How much memory there is on a card."""

from lorafa.memory.sizes import GIB

USUAL = (24, 40, 80)  # GiB that most cards for training are sold with

# Bytes that PyTorch finds, by name: the "total capacity" of its out-of-memory messages, a little less than what the
# card is sold as. One such message for each of the last added: https://github.com/Zheng-Chong/CatVTON/issues/133 (T4),
# https://github.com/TrajectoryCrafter/TrajectoryCrafter/issues/20 (RTX 5090).
CARDS = {
    name: round(gib * GIB)
    for name, gib in {
        "t4": 14.56,
        "rtx-4090": 23.64,
        "rtx-3090": 23.69,
        "rtx-5090": 31.36,
        "v100-32gb": 31.74,
        "a100-40gb": 39.39,
        "l40s": 44.39,
        "rtx-a6000": 47.54,
        "h100-80gb": 79.10,
        "a100-80gb": 79.15,
        "h200-141gb": 139.81,
    }.items()
}
