"""Figures of results: what a result shows, once, as data (`charts`), and the one way to draw it (`draw`).

A kind has a function `ResultFiles -> {name: figure}` in a module here. The stage calls it at its end and writes
`NAME.svg`; the report, a comparison and the terminal call it again on the same folder.

To add a kind's figures: such a function, and a call of `write_figures` at the end of the stage. To add a kind of chart:
a dataclass in `charts.py` and its drawing in `draw.py`.
"""
