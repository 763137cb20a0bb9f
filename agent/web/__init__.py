"""status → [web] → people, scrapers, command line. The local HTTP face: the page, health, metrics, the status as JSON.

Owns its listeners and what they refuse. Only reads: it changes nothing, shows no payload, and no record depends on it.
"""
