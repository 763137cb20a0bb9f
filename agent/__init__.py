"""Nightsafe keeps a venue selling when the way to the cloud is gone, and loses nothing on the way back.

    POS devices ──MQTT──► gate ──► ingest ──► journal (SQLite) ──► drain ──► cloud ──HTTPS──► receiver
                ◄─PUBACK──        ◄─committed

The gate takes events and acknowledges them only when they are on disk; everything else goes to Mosquitto behind it.
One writer appends to one journal; one cursor drains it, in order. `app` joins the parts, `core` decides, the edges and
stages act. Imports point one way: cli → app → {stages, web, edges} → settings → runtime → core.
"""

__version__ = "0.1.0"
