"""Which channel wins a voxel, and which channels can win anywhere between voxels.

Winners are numbers of channels counted from 1; 0 is no channel.

Averages of the logits of some voxels are taken between them, with weights that are not negative and add up to one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding

__all__ = ["Argmax", "Contest", "LastRegion", "Logits", "Rule", "StrongestRegion", "Winners", "rule_of"]

Logits = NDArray[np.floating[Any]]
Winners = NDArray[np.unsignedinteger[Any]]


class Contest(Protocol):
    """A plane for which channels compete one after the other."""

    @property
    def winner(self) -> Winners:
        """(Y, X), of the channels so far."""

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """The next channel.

        Args:
            number: 1 for the first one, then rising.
            logits: (Y, X); not kept.
            highest: (Y,), the highest logit of each row.
        """


class Rule(Protocol):
    """How channels compete for a voxel."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """A plane that no channel has entered.

        Args:
            shape: (Y, X).
            dtype: Of the winners.
        """

    def winners(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """The winner of each voxel.

        Args:
            logits: (C, Y, X).
            highest: (C, Y), the highest logit of each row.
            dtype: Of the result.

        Returns:
            (Y, X).
        """
        contest = self.contest(logits.shape[1:], dtype)
        for channel, (entered, of_rows) in enumerate(zip(logits, highest, strict=True)):
            contest.enter(channel + 1, entered, of_rows)
        return contest.winner

    def settled(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]], open_: int) -> Winners:
        """The winner of each voxel, where it wins every average of voxels that it wins, and `open_` elsewhere.

        Args:
            logits: As for `winners`, and so are the two next.
            highest: The highest logit of each row.
            dtype: Of the result.
            open_: No number of a channel.
        """
        return self.winners(logits, highest, dtype)

    def winners_among(self, logits: Logits, numbers: NDArray[np.intp], channels: NDArray[np.intp]) -> Winners:
        """The winners of single voxels, each of which has candidates of its own.

        Args:
            logits: (k, n), of n voxels, candidates in the order of channels.
            numbers: (k, n), where each candidate stands in `channels`, counted from 1; 0 is none, with a logit that
                never wins.
            channels: Channels counted from 0.

        Returns:
            (n,), the winning candidate counted from 1.
        """
        winner: Winners = self.winners(logits[:, None], logits.max(-1)[:, None], np.uint16)[0]
        return winner

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """The channels that may win somewhere in a region; what `candidates` would find is among them.

        Args:
            highest: (C,), highest logit in the region.
            lows: (k, n), lowest logit of the neighbours of n places, of any channels, at least one.

        Returns:
            (C,).
        """

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """The channels that may win somewhere between neighbouring voxels; whatever wins there is one of them.

        Args:
            lows: (C, n), lowest logit of the neighbours.
            highs: (C, n), highest logit of the neighbours.

        Returns:
            (C, n).
        """


class _HighestSoFar:
    """See `Contest`: the channel with the highest logit so far, of equal ones the first.

    Args:
        shape: (Y, X).
        dtype: Of the winners.
        start: What the first channel has to exceed.
    """

    def __init__(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]], start: float | None = None) -> None:
        self._winner: Winners = np.zeros(shape, dtype)
        self._best = np.full(shape, 0 if start is None else start, np.float32)
        self._floor = self._best.min(-1)
        self._empty = start is None

    @property
    def winner(self) -> Winners:
        """See `Contest`."""
        return self._winner

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """See `Contest`."""
        if self._empty:
            self._winner[...] = number
            self._best[...] = logits
            self._floor[...] = self._best.min(-1)
            self._empty = False
            return
        # most channels win nothing in most rows
        rows = np.flatnonzero(highest > self._floor)
        if rows.size == 0:
            return
        values, best, winner = logits[rows], self._best[rows], self._winner[rows]
        np.putmask(winner, values > best, number)
        np.maximum(best, values, out=best)
        self._best[rows], self._winner[rows], self._floor[rows] = best, winner, best.min(-1)


class _LastAboveZero:
    """See `Contest`: the last channel above 0 so far."""

    def __init__(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> None:
        self.winner: Winners = np.zeros(shape, dtype)

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """See `Contest`."""
        rows = np.flatnonzero(highest > 0)
        if rows.size:
            winner = self.winner[rows]
            np.putmask(winner, logits[rows] > 0, number)
            self.winner[rows] = winner


class Argmax(Rule):
    """The channel with the highest logit; of equal ones the first."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """See `Rule`."""
        return _HighestSoFar(shape, dtype)

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: below the lowest of what these channels reach everywhere, nothing wins."""
        return np.asarray(highest >= lows.max(0).min())

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: an average of a channel is at most its highest value, that of the winner at least its lowest."""
        return np.asarray(highs >= lows.max(0))


class LastRegion(Rule):
    """The last channel whose logit is above 0, that is its probability above one half."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """See `Rule`."""
        return _LastAboveZero(shape, dtype)

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: what is not above 0 anywhere wins nowhere."""
        return np.asarray(highest > 0)

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: a channel that is above 0 everywhere hides all before it."""
        number = np.arange(1, len(lows) + 1)[:, None]
        certain = ((lows > 0) * number).max(0)
        return np.asarray((highs > 0) & (number >= certain))


class StrongestRegion(Rule):
    """The last channel whose logit is above 0, and of those that exclude it none is higher; of equal ones the first is.

    Args:
        rivals: For each channel those that exclude it, counted from 0; mutual.
    """

    def __init__(self, rivals: Sequence[Sequence[int]]) -> None:
        count = len(rivals)
        self._excludes = np.zeros((count, count), bool)
        for channel, others in enumerate(rivals):
            self._excludes[channel, list(others)] = True
        self._matches = self._excludes | np.eye(count, dtype=bool)
        # whether a channel is painted over winner w where both are present, (C, C + 1)
        self._over = np.zeros((count, count + 1), bool)
        self._over[:, 1:] = np.tri(count, k=-1, dtype=bool) & ~self._matches

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """See `Rule`."""
        return _StrongestOfGroups(self._matches, shape, dtype)

    def settled(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]], open_: int) -> Winners:
        """See `Rule`.

        A winner is above 0 and not below its rivals, and so it is in averages. What may be painted over it is not
        there because it is not above 0, which holds in averages too, or because a rival of its own is higher, which
        need not be the same one everywhere.
        """
        winner = self.winners(logits, highest, dtype)
        settled = winner.copy()
        for channel in np.flatnonzero(self._over.any(1)):
            rows = np.flatnonzero(highest[channel] > 0)
            if rows.size:
                held = settled[rows]
                held[(logits[channel][rows] > 0) & self._over[channel][winner[rows]]] = open_
                settled[rows] = held
        return settled

    def winners_among(self, logits: Logits, numbers: NDArray[np.intp], channels: NDArray[np.intp]) -> Winners:
        """See `Rule`."""
        # a number of 0 takes any channel: its logit is below all others
        channel = channels[numbers - 1]
        winner: Winners = np.zeros(logits.shape[1], np.uint16)
        for place, values in enumerate(logits):
            present = values > 0
            for other, rival in enumerate(logits):
                higher = rival >= values if other < place else rival > values
                present &= ~(higher & self._excludes[channel[place], channel[other]])
            winner[present] = place + 1
        return winner

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: what is not above 0 anywhere wins nowhere, and excludes nothing that does."""
        return np.asarray(highest > 0)

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: likewise. What is above 0 and never wins may still exclude something that would."""
        return np.asarray(highs > 0)


class _StrongestOfGroups:
    """See `Contest`, of `StrongestRegion`.

    Channels that compete with the same ones share one search for the strongest; exclusive classes all share one.

    Args:
        matches: (C, C), the channels that each one competes with, itself among them.
        shape: (Y, X).
        dtype: Of the winners.
    """

    def __init__(self, matches: NDArray[np.bool_], shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> None:
        self._groups, group_of = np.unique(matches, axis=0, return_inverse=True)
        self._contests = [_HighestSoFar(shape, dtype, start=0) for _ in self._groups]
        # the strongest of a group counts where it is one of those that compete with these
        numbers = np.arange(len(matches) + 1, dtype=dtype)
        own = np.concatenate([[-1], group_of.reshape(-1)])
        self._counts = [np.where(own == group, numbers, dtype(0)) for group in range(len(self._groups))]

    @property
    def winner(self) -> Winners:
        """See `Contest`."""
        if len(self._contests) == 1:
            return self._contests[0].winner
        present = (counts[contest.winner] for counts, contest in zip(self._counts, self._contests, strict=True))
        winner: Winners = functools.reduce(np.maximum, present)
        return winner

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """See `Contest`."""
        for group, contest in zip(self._groups, self._contests, strict=True):
            if group[number - 1]:
                contest.enter(number, logits, highest)


def rule_of(decoding: Decoding) -> Rule:
    """The rule of a model.

    Args:
        decoding: What its channels mean.
    """
    if not decoding.regions:
        return Argmax()
    return LastRegion() if decoding.rivals is None else StrongestRegion(decoding.rivals)
