"""What an encoder is trained and measured on: names, definitions and facts of a graph, with parts held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from kgkit.arrays import BoolArray, IntArray
from kgkit.encoder.config import EncoderRecipe, HeldOutConfig
from kgkit.encoder.names import normalise
from kgkit.evaluation.held_out_files import NAME_COLUMNS
from kgkit.languages import english
from kgkit.training.source import TrainingSource, without_concepts
from kgkit.views.splits import TripleSplit, shuffle_tails, split_concepts, split_triples
from kgkit.views.triples import TripleView


@dataclass(frozen=True)
class Corpus:
    """Training texts and facts, and what is kept from training; concept rows are positions in `view.concepts`.

    Attributes:
        view: Concepts, relations, all facts.
        split: The facts between concepts that training sees, in parts.
        inductive: int64 [n, 3], facts of the others that are asked for.
        support: int64 [n, 3], facts of the others that pass messages once training is over, and are not asked for.
        unseen: bool [N], concepts with no name, definition or fact in training.
        names: Training names, concept after concept; each concept's first one is its preferred name.
        name_starts: int64 [N + 1], where each concept's names begin in `names`; unseen concepts have their preferred
            name alone, which is never drawn.
        definition_rows: int64 [D], concept row of each training definition.
        definitions: Their texts.
        query_names: Held-out names as written, rows of the concepts they name, `valid`, `test` or `inductive`; columns
            of held_out_files.NAME_COLUMNS.
        query_definitions: Columns of held_out_files.DEFINITION_COLUMNS.
    """

    view: TripleView
    split: TripleSplit
    inductive: IntArray
    support: IntArray
    unseen: BoolArray
    names: pl.Series
    name_starts: IntArray
    definition_rows: IntArray
    definitions: pl.Series
    query_names: pl.DataFrame
    query_definitions: pl.DataFrame

    @property
    def preferred(self) -> pl.Series:
        """Preferred name of every concept."""
        return self.names.gather(self.name_starts[:-1])


def build_corpus(source: TrainingSource, held_out: HeldOutConfig, seed: int) -> Corpus:
    """Hold parts of a graph out of training.

    A held-out name is held out by its normalised string: from the names of every concept, and from the definitions of
    the concepts it names. Preferred names are never held out, since a concept's node has to be read from something.

    Args:
        source: The graph.
        held_out: How much; a published split keeps its own facts.
        seed: Draws the parts.
    """
    view = source.view
    unseen = np.zeros(view.num_concepts, dtype=np.bool_)
    if held_out.concepts and source.published is None:
        unseen[split_concepts(view, held_out.concepts, seed).test_concepts] = True
    split = source.published or split_triples(without_concepts(view, unseen), held_out.triples, seed)
    touched = unseen[view.triples[:, 0]] | unseen[view.triples[:, 2]]
    is_support = _support(view.triples, view.num_concepts, seed)
    names = _names(source)
    queries = _query_names(names, unseen, held_out.names, seed)
    training = names.filter(
        pl.col("is_preferred") | (~pl.col("string").is_in(queries["string"].implode()) & ~pl.col("is_same"))
    )
    definitions = _parted_definitions(source, queries, unseen, held_out.definitions, seed)
    seen = definitions.filter(pl.col("part") == "train")
    counts = np.bincount(training["row"].to_numpy(), minlength=view.num_concepts)
    return Corpus(
        view=view,
        split=split,
        inductive=view.triples[touched & ~is_support],
        support=view.triples[touched & is_support],
        unseen=unseen,
        names=training["name"],
        name_starts=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        definition_rows=seen["concept"].to_numpy().astype(np.int64),
        definitions=seen["definition"],
        query_names=queries.select(list(NAME_COLUMNS)),
        query_definitions=definitions.filter(pl.col("part").is_in(["valid", "test", "inductive"])),
    )


def _support(triples: IntArray, num_concepts: int, seed: int) -> BoolArray:
    """Half of the pairs of concepts, bool [n] of their facts: an unseen concept is placed by some, asked for others."""
    ends = triples[:, [0, 2]]
    pairs, pair_of = np.unique(ends.min(axis=1) * num_concepts + ends.max(axis=1), return_inverse=True)
    chosen: BoolArray = np.random.default_rng([seed, 3]).random(len(pairs)) < 0.5
    return chosen[pair_of]


def training_facts(split: TripleSplit, recipe: EncoderRecipe) -> IntArray:
    """The training facts, int64 [n, 3]; those of the control have their tails permuted within each relation."""
    return shuffle_tails(split.train, recipe.seed) if recipe.held_out.control == "shuffled-graph" else split.train


def _names(source: TrainingSource) -> pl.DataFrame:
    """English names, distinct by string within each concept, preferred first.

    Columns row, name, string, is_preferred, is_same (another spelling of the preferred name, which teaches nothing).
    """
    rows = pl.DataFrame({"concept": source.view.concepts}).with_row_index("row")
    preferred = source.concepts.select("concept", "name", is_preferred=pl.lit(value=True))
    others = source.names.filter(english()).select("concept", "name", is_preferred=pl.lit(value=False))
    table = pl.concat([preferred, others]).join(rows, on="concept")
    strings = table.select(pl.col("name").unique(maintain_order=True))
    strings = strings.with_columns(string=pl.col("name").map_elements(normalise, return_dtype=pl.String))
    table = table.join(strings, on="name", maintain_order="left")
    table = table.filter((pl.col("string") != "") | pl.col("is_preferred"))
    table = table.with_columns(is_same=pl.col("string") == pl.col("string").first().over("row"))
    table = table.unique(["row", "string"], keep="first", maintain_order=True)
    return table.sort("row", maintain_order=True)


def _query_names(names: pl.DataFrame, unseen: BoolArray, fraction: float, seed: int) -> pl.DataFrame:
    """Held-out strings: name (as first written), string, concepts, part; never a string that some concept prefers."""
    taken = names.filter(pl.col("is_preferred"))["string"].unique().implode()
    free = names.filter(~pl.col("string").is_in(taken))
    free = free.with_columns(unseen=pl.Series(unseen).gather(free["row"]))
    table = free.group_by("string").agg(
        pl.col("name").first(), concepts=pl.col("row").cast(pl.Int32), is_inductive=pl.col("unseen").any()
    )
    table = table.sort("string")
    is_inductive = table["is_inductive"]
    part = np.where(is_inductive.to_numpy(), "inductive", "train").astype(object)
    rest = np.flatnonzero(part == "train")
    count, half = round(fraction * len(rest)), round(fraction * len(rest) / 2)
    drawn = np.random.default_rng([seed, 1]).permutation(rest)
    part[drawn[:count]], part[drawn[count : count + half]] = "test", "valid"
    return table.with_columns(part=pl.Series(part, dtype=pl.String)).filter(pl.col("part") != "train")


def _parted_definitions(
    source: TrainingSource, queries: pl.DataFrame, unseen: BoolArray, fraction: float, seed: int
) -> pl.DataFrame:
    """Definitions with their part; `spelt` where a training definition gives away what is held out.

    It spells out a held-out name of its concept, or is the text of a held-out definition of another concept.
    """
    rows = pl.DataFrame({"concept": pl.Series(range(len(source.concepts)), dtype=pl.Int32)})
    table = rows.with_columns(source.concepts["definition"]).filter(pl.col("definition").str.len_chars() > 0)
    where = table["concept"].to_numpy()
    part = np.where(unseen[where], "inductive", "train").astype(object)
    rest = np.flatnonzero(part == "train")
    count, half = round(fraction * len(rest)), round(fraction * len(rest) / 2)
    drawn = np.random.default_rng([seed, 2]).permutation(rest)
    part[drawn[:count]], part[drawn[count : count + half]] = "test", "valid"
    table = table.with_columns(part=pl.Series(part, dtype=pl.String))
    owned = queries.explode("concepts").select(concept="concepts", string="string")
    pairs = table.filter(pl.col("part") == "train").join(owned, on="concept")
    padded = pl.col("definition").map_elements(lambda text: f" {normalise(text)} ", return_dtype=pl.String)
    spelt = pairs.with_columns(padded=padded).filter(
        pl.col("padded").str.contains(pl.format(" {} ", "string"), literal=True)
    )
    table = table.with_columns(text=pl.col("definition").map_elements(normalise, return_dtype=pl.String))
    asked = table.filter(pl.col("part") != "train")["text"].unique().implode()
    is_spelt = pl.col("concept").is_in(spelt["concept"].unique().implode()) | pl.col("text").is_in(asked)
    part_of = pl.when(is_spelt & (pl.col("part") == "train")).then(pl.lit("spelt")).otherwise("part")
    return table.with_columns(part=part_of).drop("text")
