"""outdim inside somebody else's training loop: watch dimensions begin to follow frequency.

A small language model learns text whose words are as unequal as those of real text. Its norm is
`outdim.ops.layer_norm_moments`, which has gradients and gives the moments of what it normalises in
the same pass; `outdim.stats.Moments` adds them up over an interval of training. Nothing is stored,
no second forward is made, and only torch and NumPy are imported.
"""

import torch
from outdim.ops import StatisticsArgs, layer_norm_moments
from outdim.stats import Covariates, Moments
from torch import Tensor, nn
from torch.nn import functional

VOCAB, WIDTH, BATCH, LENGTH, INTERVAL = 200, 32, 32, 24, 50


class Watched(nn.Module):
    """Predicts a token from the two before it; watches its hidden states on the way."""

    def __init__(self, statistics: Covariates) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCAB, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.gamma, self.beta = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.statistics = statistics
        self.moments = Moments(statistics)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, S - 1, V] of the tokens after the second of each two."""
        states = self.embed(ids)
        states = states[:, 1:] + torch.tanh(
            self.mix(torch.cat([states[:, :-1], states[:, 1:]], -1))
        )
        watch = StatisticsArgs(ids=ids[:, 1:], table=self.statistics.table)
        normed, _, state = layer_norm_moments(
            states, self.gamma, self.beta, statistics=watch, of="input"
        )
        self.moments.absorb(state.head[0], state.body[0])
        return normed @ self.embed.weight.T


def main(steps: int = 200) -> None:
    """Train, and print what was watched after every interval."""
    torch.manual_seed(0)
    frequencies = 1 / torch.arange(1, VOCAB + 1, dtype=torch.float64)  # Zipf's law
    following = torch.randint(VOCAB, (VOCAB,))  # after a quarter of the words comes a fixed one
    covariates = Covariates(frequencies.log()[None], ("log_frequency",))
    model = Watched(covariates)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        drawn = torch.multinomial(frequencies, BATCH * LENGTH, replacement=True)
        ids = drawn.reshape(BATCH, LENGTH)
        fixed = torch.rand(BATCH, LENGTH - 1) < 0.25
        ids[:, 1:] = torch.where(fixed, following[ids[:, :-1]], ids[:, 1:])
        logits = model(ids)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % INTERVAL == 0:
            seen = model.moments.compute()
            r = seen.pearson("log_frequency", of="abs").abs()
            print(
                f"step {step}: loss {loss:.2f}, {seen.n} tokens; |h| of dimension "
                f"{int(r.argmax())} follows frequency most (|r| {r.max():.2f}, median "
                f"{r.median():.2f}); kurtosis at most {seen.kurtosis.max():.1f}"
            )
            model.moments = Moments(covariates)


if __name__ == "__main__":
    main()
