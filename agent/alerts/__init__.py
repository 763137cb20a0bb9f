"""facts → [alerts] → people who are not here. Letters that survive a kill, and the facts that call for one.

Owns the outbox's turns and the escalation of a sync that stays away. Never delays or changes a sale or an upload.
"""
