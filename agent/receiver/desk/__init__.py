"""boxes ↔ server ↔ [desk]. The cloud's counter: what it tells venues, and what venues ask it in real time.

Owns a file of its own beside the ledger: the log of commands, and small honest accounts of loyalty, gift cards,
customers, stock and payments. Never changes the ledger, which it only reads.
"""
