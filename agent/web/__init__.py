"""status → [web] → people, scrapers, command line. The local HTTP face: the page, health, metrics, the status as JSON.

Owns its listeners and what they refuse. Shows no payload and keeps nothing; who acts here, by the Unix socket or by the
venue PIN, has the desk and the others behind it act. No record depends on it.
"""
