"""cloud → [orders] → journal, devices. What the cloud tells the venue, kept before it counts as heard.

Owns the inbox of commands. Never decides what a payment or an order means, and never uploads anything.
"""
