"""The paper's tables, measured again: which cells there are (`tables`), at which scale (`scales`), how they are run (`runner`), what they
say (`outcomes`) and how they are shown (`pages`).

A cell is one replay of one set of poisons under one defense. Poisons are crafted once and replayed under every defense, trials are
members of the engine's runs, and what is kept of a cell is its record; tables share the cells that they have in common.
"""
