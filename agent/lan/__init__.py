"""devices → [lan] → ingest. Everything that speaks MQTT on the venue's network: gate, Mosquitto behind it, our session.

Owns the devices' connections. It acknowledges an event only when it is told that the commit has returned; what is no
event it passes on byte for byte. It never stores anything.
"""
