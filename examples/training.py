"""outdim inside somebody else's training loop: watch the range of every dimension grow.

A small language model learns text whose words are as unequal as those of real text. Its norm is
`outdim.ops.layer_norm_moments`, which has gradients and gives the moments of what it normalises in
the same pass; `outdim.stats.Moments` adds them up until somebody looks. Nothing is stored, no
second forward is made, and only torch and NumPy are imported.
"""

import torch
from outdim.ops import StatisticsArgs, layer_norm_moments
from outdim.stats import Moments
from torch import Tensor, nn
from torch.nn import functional

VOCAB, WIDTH, BATCH, LENGTH = 200, 32, 32, 24


class Watched(nn.Module):
    """Predicts a token from the two before it; its hidden states are watched on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCAB, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.gamma, self.beta = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.moments = Moments()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, S - 1, V] of what follows, from ids [B, S]."""
        states = self.embed(ids)
        pairs = torch.cat([states[:, :-1], states[:, 1:]], -1)
        states = states[:, 1:] + torch.tanh(self.mix(pairs))
        normed, _, found = layer_norm_moments(
            states, self.gamma, self.beta, statistics=StatisticsArgs(), of="input"
        )
        self.moments.absorb(found.head[0], found.body[0])
        return normed @ self.embed.weight.T


def main(looks: tuple[int, ...] = (1, 20, 100, 200)) -> None:
    """Train, and after so many steps print what was watched since the last look."""
    torch.manual_seed(0)
    frequencies = 1 / torch.arange(1, VOCAB + 1, dtype=torch.float64)  # Zipf's law
    following = torch.randint(VOCAB, (VOCAB,))  # what comes after a word, one time in four
    model = Watched()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, looks[-1] + 1):
        ids = torch.multinomial(frequencies, BATCH * LENGTH, replacement=True)
        ids = ids.reshape(BATCH, LENGTH)
        fixed = torch.rand(BATCH, LENGTH - 1) < 0.25
        ids[:, 1:] = torch.where(fixed, following[ids[:, :-1]], ids[:, 1:])
        logits = model(ids)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in looks:
            seen = model.moments.compute()
            reach, widest = seen.absmax.max(dim=0)
            print(
                f"step {step}: loss {loss:.2f}, {seen.n} tokens; |h| at most {reach:.2f} "
                f"(dimension {widest}; the median dimension {seen.absmax.median():.2f}); "
                f"kurtosis up to {seen.kurtosis.max():.1f}"
            )
            model.moments = Moments()


if __name__ == "__main__":
    main()
