"""Learning the regularisers of imaging inverse problems by differentiating through fixed points.

Bilevel learning and deep equilibrium models (DEQ) are two choices of the fixed-point map G in

    u* = G(u*, params, f).

The modules, from the bottom up: `types`; `operators`, `potentials`, `losses`, `solvers`,
`results`; `maps`, `regularizers`, `hypergradients`, `settings`, `data`, `plots`; `models`,
`learning`; `studies`. Imports only ever run downwards.
"""

__version__ = "0.1.0"
