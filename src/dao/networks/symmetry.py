"""The symmetry prior: p(space group, Wyckoff positions | composition of the primitive cell).

A transformer over the elements (encoder) gives the space group; a second one over the orbits chosen so far (decoder)
gives, element by element, the position of the next orbit. Choices that :mod:`dao.geometry.wyckoff_assignments` rules
out have probability 0, so the probabilities of all assignments of a composition add up to 1. Positions are scored
against vectors made of what they are (multiplicity, free coordinates, site symmetry) and a learned part, so that rare
groups share what common ones teach.

Shapes: B crystals, S elements of a cell (padded), T orbits (padded), D width, H heads, K = D / H, L positions of a
group (padded to 27), M keys of the context and A with those of the tokens, Q = T or 1 (broadcast), N orbits of a
neighbour, K neighbours, C channels of votes, G = 231 groups, P = 1732 positions.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dao.data.symmetry_batch import MAX_NEIGHBOURS, SymmetryBatch
from dao.geometry.wyckoff import SPACE_GROUPS, WYCKOFF_POSITIONS, wyckoff_index, wyckoff_positions
from dao.networks.embeddings import ELEMENT_FEATURES, element_features
from dao.networks.symmetry_config import SymmetryPriorConfig

MAX_LETTERS = 27
"""Positions of the group that has most (Pmmm)."""

MAX_COUNT = 64
"""Counts beyond are not told apart."""

MAX_MULTIPLICITY = 48
"""Of a position in a primitive cell."""

_POINT_GROUP_STARTS = (
    *(1, 2, 3, 6, 10, 16, 25, 47, 75, 81, 83, 89, 99, 111, 123, 143, 147, 149, 156, 162),
    *(168, 174, 175, 177, 183, 187, 191, 195, 200, 207, 215, 221),
)
"""First space group of each of the 32 point groups (International Tables A)."""

VOTE_SCALES = (0.03, 0.1, 0.3)
"""Distances over which neighbours' votes fall to 1/e, a channel each."""

VOTE_FLOOR = 1e-3
"""Share of the votes that every choice has without a vote."""

KeysValues = tuple[Float[Tensor, "b h m k"], Float[Tensor, "b h m k"]]
AllKeysValues = tuple[Float[Tensor, "b h a k"], Float[Tensor, "b h a k"]]


class AttentionBlock(nn.Module):
    """Pre-norm attention, then a pre-norm feed-forward, both residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def keys_values(self, normed: Float[Tensor, "b m d"]) -> KeysValues:
        """Keys and values of normalised features."""
        k, v = self.key_value(normed).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, dim=1)
        return k, v

    def forward(
        self, x: Float[Tensor, "b t d"], context: KeysValues | None, mask: Bool[Tensor, "b q a"]
    ) -> tuple[Float[Tensor, "b t d"], AllKeysValues]:
        """One block; ``x`` attends to ``context`` and to itself where ``mask`` says so.

        Also returns the keys and values of context and ``x``: the context of what comes after ``x``.
        """
        normed = self.attention_norm(x)
        q = self.query(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.keys_values(normed)
        if context is not None:
            k, v = torch.cat([context[0], k], dim=2), torch.cat([context[1], v], dim=2)
        # a handful of tokens: faster than the fused kernel on a CPU
        logits = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, None], torch.finfo(q.dtype).min)
        y = torch.softmax(logits, dim=-1).to(v.dtype) @ v
        x = x + functional.dropout(self.output(y.transpose(1, 2).flatten(2)), self.dropout, self.training)
        y = self.feed_forward(self.feed_forward_norm(x))
        return x + functional.dropout(y, self.dropout, self.training), (k, v)


class SymmetryPrior(nn.Module):
    """p(space group | composition) and p(Wyckoff positions | space group, composition)."""

    def __init__(self, config: SymmetryPriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self._register_tables()
        self.element_map = nn.Linear(ELEMENT_FEATURES, width)
        self.element = nn.Embedding(self.element_table.shape[0], width)
        self.count = nn.Embedding(MAX_COUNT + 1, width)
        self.reduced_count = nn.Embedding(MAX_COUNT + 1, width)
        self.fraction = nn.Linear(1, width)
        self.num_atoms = nn.Embedding(MAX_COUNT + 1, width)
        self.formula_units = nn.Embedding(MAX_COUNT + 1, width)
        self.num_elements = nn.Embedding(MAX_COUNT + 1, width)
        self.neighbour_distances = nn.Linear(MAX_NEIGHBOURS, width)
        self.neighbour_groups = nn.Linear(width, width, bias=False)
        self.encoder = nn.ModuleList(
            AttentionBlock(width, config.heads, config.dropout) for _ in range(config.encoder_blocks)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.group_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout))
        self.group_bias = nn.Parameter(torch.zeros(SPACE_GROUPS + 1))
        self.group_votes = nn.Linear(width, len(VOTE_SCALES))

        self.group = nn.Embedding(SPACE_GROUPS + 1, width)
        self.point_group = nn.Embedding(len(_POINT_GROUP_STARTS) + 1, width)
        self.position = nn.Embedding(WYCKOFF_POSITIONS + 1, width)
        self.position_map = nn.Linear(self.position_table.shape[1], width)
        self.of_element = nn.Linear(width, width)
        self.of_previous = nn.Linear(width, width)
        self.remaining = nn.Embedding(MAX_COUNT + 1, width)
        self.decoder = nn.ModuleList(
            AttentionBlock(width, config.heads, config.dropout) for _ in range(config.decoder_blocks)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.position_head = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros(WYCKOFF_POSITIONS + 1))
        self.position_votes = nn.Linear(width, len(VOTE_SCALES))
        for votes in (self.group_votes, self.position_votes):
            nn.init.zeros_(votes.weight)
            nn.init.constant_(votes.bias, 0.5 / len(VOTE_SCALES))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)

    element_table: Tensor
    position_table: Tensor
    positions_of_group: Tensor
    point_group_of: Tensor

    def _register_tables(self) -> None:
        """What is known of elements, positions and groups: not learned, not saved."""
        every = [one for number in range(1, SPACE_GROUPS + 1) for one in wyckoff_positions(number)]
        symbols = {symbol: i for i, symbol in enumerate(sorted({one.site_symmetry for one in every}))}
        table = torch.zeros(WYCKOFF_POSITIONS + 1, 4 + MAX_MULTIPLICITY + 1 + len(symbols))
        for row, one in enumerate(every, start=1):
            table[row, one.degrees] = 1.0
            table[row, 4 + one.multiplicity] = 1.0
            table[row, 5 + MAX_MULTIPLICITY + symbols[one.site_symmetry]] = 1.0
        positions = torch.zeros(SPACE_GROUPS + 1, MAX_LETTERS, dtype=torch.long)
        for number in range(1, SPACE_GROUPS + 1):
            first, count = wyckoff_index(number, "a"), len(wyckoff_positions(number))
            positions[number, :count] = torch.arange(first, first + count)
        point_group = torch.bucketize(torch.arange(SPACE_GROUPS + 1), torch.tensor(_POINT_GROUP_STARTS), right=True)
        self.register_buffer("element_table", element_features(), persistent=False)
        self.register_buffer("position_table", table, persistent=False)
        self.register_buffer("positions_of_group", positions, persistent=False)
        self.register_buffer("point_group_of", point_group, persistent=False)

    def group_vectors(self) -> Float[Tensor, "g d"]:
        """(231, D) one vector a space group: its own and its point group's."""
        return self.group.weight + self.point_group(self.point_group_of)

    def position_vectors(self) -> Float[Tensor, "p d"]:
        """(1732, D) one vector a Wyckoff position: its own and that of its kind."""
        return self.position.weight + self.position_map(self.position_table)

    def encode(self, batch: SymmetryBatch) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b m"]]:
        """Features of the composition as a whole (entry 0) and of its elements, and which of them are no padding."""
        present = batch.elements > 0
        total = batch.counts.sum(1)
        units = torch.tensor([math.gcd(*row) for row in batch.counts.tolist()], device=total.device)
        learned = self.element(batch.elements)
        if self.training and self.config.element_dropout > 0.0:
            kept = torch.rand(learned.shape[:2], device=learned.device) >= self.config.element_dropout
            learned = learned * kept[..., None]
        elements = (
            learned
            + self.element_map(self.element_table[batch.elements])
            + self.count(batch.counts.clamp_max(MAX_COUNT))
            + self.reduced_count((batch.counts // units[:, None]).clamp_max(MAX_COUNT))
            + self.fraction((batch.counts / total[:, None])[..., None])
        )
        whole = (
            self.num_atoms(total.clamp_max(MAX_COUNT))
            + self.formula_units(units.clamp_max(MAX_COUNT))
            + self.num_elements(present.sum(1))
            + self.neighbour_distances(torch.exp(-batch.neighbour_distances / VOTE_SCALES[1]))
            + self.neighbour_groups(votes_of_groups(batch)[..., 1] @ self.group_vectors())
        )
        x = torch.cat([whole[:, None], elements], dim=1)
        mask = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
        for block in self.encoder:
            x, _ = block(x, None, mask[:, None])
        return self.encoder_norm(x), mask

    def group_logits(self, memory: Float[Tensor, "b m d"], batch: SymmetryBatch) -> Float[Tensor, "b g"]:
        """(B, 231) logits of the space groups, minus infinity for those that cannot hold the composition."""
        whole = memory[:, 0]
        logits = self.group_head(whole) @ self.group_vectors().T * self.config.width**-0.5 + self.group_bias
        votes = torch.log(votes_of_groups(batch) + VOTE_FLOOR)
        logits = logits + (votes * self.group_votes(whole)[:, None]).sum(-1)
        return logits.float().masked_fill(~batch.groups, -torch.inf)

    def orbit_tokens(
        self,
        memory: Float[Tensor, "b m d"],
        space_group: Int[Tensor, " b"],
        slots: Int[Tensor, "b t"],
        remaining: Int[Tensor, "b t"],
        previous: Int[Tensor, "b t"],
        previous_slots: Int[Tensor, "b t"],
    ) -> Float[Tensor, "b t d"]:
        """What the decoder knows of the orbit that comes next: its element, atoms left, the orbit before it.

        Args:
            memory: features of the elements, entry 0 the whole.
            space_group: 1 to 230.
            slots: element of the next orbit, from 0.
            remaining: its atoms still to place.
            previous: position of the orbit before (:func:`wyckoff_index`), 0 = none.
            previous_slots: and its element.

        """

        def gathered(index: Tensor) -> Tensor:
            return memory.gather(1, (index + 1)[..., None].expand(-1, -1, memory.shape[-1]))

        return (
            self.of_element(gathered(slots))
            + self.of_previous(gathered(previous_slots)) * (previous > 0)[..., None]
            + self.position_vectors()[previous]
            + self.remaining(remaining.clamp_max(MAX_COUNT))
            + self.group_vectors()[space_group][:, None]
        )

    def decode(
        self, tokens: Float[Tensor, "b t d"], contexts: list[KeysValues], mask: Bool[Tensor, "b q a"]
    ) -> tuple[Float[Tensor, "b t d"], list[AllKeysValues]]:
        """Features of tokens that see ``contexts`` (a pair a block) and each other by ``mask``; the contexts after."""
        after = []
        for block, context in zip(self.decoder, contexts, strict=True):
            tokens, context_after = block(tokens, context, mask)
            after.append(context_after)
        return self.decoder_norm(tokens), after

    def contexts(self, memory: Float[Tensor, "b m d"]) -> list[KeysValues]:
        """What the decoder sees of the composition, a pair a block."""
        blocks = (block for block in self.decoder if isinstance(block, AttentionBlock))
        return [block.keys_values(memory) for block in blocks]

    def position_logits(
        self,
        features: Float[Tensor, "b t d"],
        space_group: Int[Tensor, " b"],
        allowed: Int[Tensor, "b t"],
        votes: Float[Tensor, "b t l c"],
    ) -> Float[Tensor, "b t l"]:
        """(B, T, 27) logits of the positions of the group, minus infinity for those not ``allowed`` (bits)."""
        index = self.positions_of_group[space_group]
        vectors = self.position_vectors()[index]
        logits = (
            self.position_head(features) @ vectors.mT * self.config.width**-0.5 + self.position_bias[index][:, None]
        )
        logits = logits + (torch.log(votes + VOTE_FLOOR) * self.position_votes(features)[:, :, None]).sum(-1)
        possible = (allowed[..., None] >> torch.arange(MAX_LETTERS, device=allowed.device)) & 1
        return logits.float().masked_fill(possible == 0, -torch.inf)

    def forward(self, batch: SymmetryBatch) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b t l"]]:
        """Logits of the space group and, given the true one and the true orbits before, of every orbit's position."""
        memory, present = self.encode(batch)
        # the token of orbit t carries orbit t - 1
        first = self.positions_of_group[batch.space_group]
        chosen = first.gather(1, batch.letters.clamp_min(0)) * (batch.letters >= 0)
        previous, previous_slots = (functional.pad(x, (1, 0))[:, :-1] for x in (chosen, batch.slots))
        tokens = self.orbit_tokens(memory, batch.space_group, batch.slots, batch.remaining, previous, previous_slots)
        count = tokens.shape[1]
        causal = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril().expand(len(batch), -1, -1)
        mask = torch.cat([present[:, None].expand(-1, count, -1), causal], dim=-1)
        features, _ = self.decode(tokens, self.contexts(memory), mask)
        # padding has one choice, so that its probability is 1
        allowed = torch.where(batch.letters >= 0, batch.allowed, 1)
        agrees = agreeing(batch.neighbour_groups == batch.space_group[:, None], batch.neighbour_letters, batch.letters)
        votes = votes_of_positions(batch.neighbour_distances, agrees, next_letters(batch.neighbour_letters, count))
        positions = self.position_logits(features, batch.space_group, allowed, votes)
        return self.group_logits(memory, batch), positions

    def log_probability(self, batch: SymmetryBatch) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Log p(space group | composition) and log p(positions | space group, composition), (B,) each."""
        groups, positions = self(batch)
        group = functional.log_softmax(groups, dim=-1).gather(1, batch.space_group[:, None])[:, 0]
        chosen = functional.log_softmax(positions, dim=-1).gather(2, batch.letters.clamp_min(0)[..., None])[..., 0]
        return group, chosen.sum(1)


def vote_weights(distances: Float[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
    """(B, K, C) weight of each neighbour, falling with its distance; they add up to 1, or to 0 where there are none."""
    scales = torch.tensor(VOTE_SCALES, device=distances.device)
    nearer = distances - distances[:, :1].nan_to_num(posinf=0.0)
    weights = torch.exp(-nearer[..., None] / scales)
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-9)


def votes_of_groups(batch: SymmetryBatch) -> Float[Tensor, "b g c"]:
    """(B, 231, C) share of the neighbours' weight that each space group has."""
    weights = vote_weights(batch.neighbour_distances)
    votes = weights.new_zeros(len(batch), SPACE_GROUPS + 1, len(VOTE_SCALES))
    return votes.scatter_add_(1, batch.neighbour_groups[..., None].expand_as(weights), weights)


def next_letters(letters: Int[Tensor, "b k n"], count: int) -> Int[Tensor, "b k t"]:
    """The first ``count`` letters of each neighbour, -1 beyond its last."""
    return functional.pad(letters, (0, max(0, count - letters.shape[-1])), value=-1)[..., :count].long()


def agreeing(
    same_group: Bool[Tensor, "b k"], neighbour_letters: Int[Tensor, "b k n"], letters: Int[Tensor, "b t"]
) -> Bool[Tensor, "b k t"]:
    """Which neighbours have the group and all letters before orbit t."""
    count = letters.shape[1]
    same = next_letters(neighbour_letters, count) == letters[:, None]
    before = functional.pad(same, (1, 0), value=True)[..., :count].long().cumprod(-1).bool()
    return before & same_group[..., None]


def votes_of_positions(
    distances: Float[Tensor, "b k"], agrees: Bool[Tensor, "b k t"], letters: Int[Tensor, "b k t"]
) -> Float[Tensor, "b t l c"]:
    """(B, T, 27, C) share of the agreeing neighbours' weight that each letter has; even where next to none agree."""
    weights = vote_weights(distances)[:, :, None] * (agrees & (letters >= 0))[..., None]
    votes = weights.new_zeros(len(letters), letters.shape[2], MAX_LETTERS, len(VOTE_SCALES))
    index = letters.clamp_min(0).transpose(1, 2)[..., None].expand(-1, -1, -1, len(VOTE_SCALES))
    votes = votes.scatter_add_(2, index, weights.transpose(1, 2))
    return votes / (votes.sum(2, keepdim=True) + VOTE_FLOOR)
