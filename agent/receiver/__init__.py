"""box → drain → cloud ──HTTPS──► [receiver]. The reference cloud: keeps every venue's records as they were received.

Owns the server's half of the cloud contract and the ledgers behind it. Recomputes every rechash, answers only after its
own commit, and never takes n+1 without n. Imports `core` and `cloud.wire` only; the agent never imports it.
"""
