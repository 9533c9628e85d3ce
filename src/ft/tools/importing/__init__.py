"""`ft import`: recipes out of the configs of other trainers.

One module a trainer says how its config is told, which keys need more than a place, what it takes where a key is
missing, and what it does otherwise than ft (`DIFFERENCES`). Every other key is placed by the table that plans use
(`recipe.place`). To add a trainer: such a module, and one line in `peers.PEERS`.
"""
