"""device ↔ broker ↔ [services] ↔ cloud. What devices ask in real time: balances, gift cards, authorisations.

Owns the desk. It answers at once what cannot be asked now, and never makes a sale wait for a dead line. Never stores an
event, and never decides what a payment became.
"""
