"""Convolutions: banks of filters (`banks`), C^T diag(d) A put together (`stencils`), and images of
many channels (`channels`)."""

from deqbilevel.convolutions.banks import (
    PAD,
    VALID,
    Bank,
    Boundary,
    Filters,
    Method,
    bank,
    multiplied,
    padded_grid,
    suited,
    transfer,
)

__all__ = [
    "PAD",
    "VALID",
    "Bank",
    "Boundary",
    "Filters",
    "Method",
    "bank",
    "multiplied",
    "padded_grid",
    "suited",
    "transfer",
]
