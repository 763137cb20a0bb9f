"""probes, drain → [uplink] → status. Tells people and pacing how the way to the cloud is.

Owns the state of the uplink. Never gates recording, never gates an upload, and never says "online" for a mere link.
"""
